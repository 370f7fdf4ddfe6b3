"""Distillation from a frozen reference mixed with the student: its loss, what moves, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.callbacks import GatedTeacher, TeacherWatch
from lightning_sdft.checkpoint import load_policy
from lightning_sdft.data.groups import Group
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import CheckpointError, PolicyError, SettingError
from lightning_sdft.grading import ExactMatch
from lightning_sdft.losses import JensenShannon, TokenFocus
from lightning_sdft.modules import DistillationModule, SDFTModule, SequenceDistillationModule, TeacherShare
from lightning_sdft.policy.lora import LoRA, adapted_layers, adapter_weights, using_adapter
from lightning_sdft.records import Example, Sampling
from lightning_sdft.teacher import EMATeacher, FullTeacher, MixedTeacher, TrustRegionTeacher
from tests.conftest import move_adapter
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS, question
from tests.modules.dense import forward_kl, jensen_shannon, log_probabilities, step, token_ids, weigh
from tests.teacher.conftest import jump

SHARE = 0.4
CHOICE = TrustRegionTeacher(SHARE)
WITH_HEAD = LoRA(rank=3, target_modules=["q_proj", "lm_head"], modules_to_save=["norm"])
WITHOUT_HEAD = LoRA(rank=3, target_modules=["q_proj", "down_proj"])


def ready(module: Any) -> Any:
    """A module that can step, whose student has left the reference."""
    module.configure_model()
    if module.lora is None:
        jump(module.policy, 0.3)
    else:
        move_adapter(module.policy.model)
    return module


@torch.no_grad()
def mixture(module: DistillationModule, text: str, completion: list[int]) -> Tensor:
    """Log-probabilities of the next token, `(N, V)`, if both models read the text."""
    trained, prompt, temperature = module.policy.model, token_ids(text), module.sampling.temperature
    student = log_probabilities(trained, prompt, completion, temperature)
    with nullcontext() if module.lora is None else using_adapter(adapted_layers(trained), None):
        reference = log_probabilities(module.teacher.policy.model, prompt, completion, temperature)
    assert (student - reference).abs().max() > 0.1
    return ((1 - SHARE) * reference + SHARE * student).log_softmax(-1)


def divergences(module: DistillationModule, group: Group, divergence: Any) -> list[Tensor]:
    """Of each completion token from the mixture, shown the demonstration; a tensor per sequence."""
    prompts = {each.id: texts for each, *texts in zip(EXAMPLES, STUDENT_PROMPTS, TEACHER_PROMPTS, strict=True)}
    parts = []
    for item in group.items:
        (prompt, shown), completion = prompts[item.example.id], item.student.completion
        student = log_probabilities(module.policy.model, token_ids(prompt), completion, module.sampling.temperature)
        parts.append(divergence(student, mixture(module, shown, completion)))
    return parts


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, None),
        ({"gradient_checkpointing": True, "sampling": Sampling(0.7)}, 2),
        ({"lora": WITH_HEAD, "gradient_checkpointing": True}, None),
        ({"lora": WITHOUT_HEAD}, 2),
        ({"lora": WITHOUT_HEAD, "divergence": JensenShannon(0.3)}, None),
    ],
)
def test_loss_and_gradient_are_those_of_the_mixed_logits(
    arguments: dict[str, Any], size: int | None, words_module: Callable[..., DistillationModule]
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher=CHOICE, **arguments))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES, size)
    divergence = jensen_shannon if "divergence" in arguments else forward_kl
    expected = weigh(divergences(module, group, divergence), 0, "sequence")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert loss > 0.05
    trained = [each for each in module.policy.parameters() if each.requires_grad]
    loss.backward()
    gradients = torch.autograd.grad(expected, trained)
    scale = max(float(each.abs().max()) for each in gradients)
    for weight, gradient in zip(trained, gradients, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-4 * scale)
    assert all(each.grad is None for each in module.parameters() if not each.requires_grad)


def test_tokens_can_be_weighted_by_what_the_mixture_gains(words_module: Callable[..., DistillationModule]) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher=CHOICE, focus=TokenFocus(0.5, "gain")))
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    values, focused = divergences(module, group, forward_kl), []
    for item, value in zip(group.items, values, strict=True):
        place, completion = EXAMPLES.index(item.example), item.student.completion
        shown, bare = (mixture(module, texts[place], completion) for texts in (TEACHER_PROMPTS, STUDENT_PROMPTS))
        gains = (shown - bare).gather(1, torch.tensor(completion)[:, None])[:, 0].clamp(min=0).sqrt()
        focused.append(value * (gains / gains.mean() if gains.sum() > 0 else 1.0))
    assert max((one - other).abs().max() for one, other in zip(focused, values, strict=True)) > 1e-3
    torch.testing.assert_close(loss, weigh(focused, 0, "sequence"), rtol=1e-4, atol=1e-4)


class Start(Callback):
    """Keeps the weights that training starts from."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.student = weights_of(pl_module.policy)


def weights_of(module: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("lora", [None, WITH_HEAD])
def test_training_moves_the_student_alone(
    lora: LoRA | None, precision: Any, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    module, start = words_module(SDFTModule, teacher=CHOICE, lora=lora), Start()
    module.configure_model()
    jump(module.policy, 0.1)  # the reference is the student as it is when fit starts
    make_trainer(max_steps=2, precision=precision, callbacks=[start]).fit(module, datamodule=words_data())
    assert isinstance(module.teacher, MixedTeacher)
    moved = {name for name, each in weights_of(module.policy).items() if not torch.equal(each, start.student[name])}
    assert moved
    assert moved <= {name for name, each in module.policy.named_parameters() if each.requires_grad}
    if lora is None:
        assert isinstance(module.teacher.reference, FullTeacher)
        now = weights_of(module.teacher.policy)
        assert all(torch.equal(now[name], each.float()) for name, each in start.student.items())
    else:
        assert not [*module.teacher.parameters()]
        assert moved <= {f"model.{name}" for name in adapter_weights(module.policy.model)}


@pytest.mark.parametrize("callback", [EMATeacher(), GatedTeacher()])
@pytest.mark.parametrize("lora", [None, WITHOUT_HEAD])
def test_reference_cannot_be_made_to_follow(
    lora: LoRA | None, callback: Any, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(callbacks=[callback])
    data = words_data([question(index) for index in range(80)])
    with pytest.raises(SettingError, match=r"leave the callback out .* a trust region around a frozen"):
        trainer.fit(words_module(SDFTModule, teacher=CHOICE, lora=lora), datamodule=data)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (DistillationModule, {"rollout_source": "teacher"}),
        (DistillationModule, {"teacher_share": TeacherShare()}),
        (SequenceDistillationModule, {}),
    ],
)
def test_mixture_writes_no_rollouts(method: Any, arguments: dict[str, Any], words_module: Any) -> None:
    with pytest.raises(ValueError, match="need a teacher that can generate, and TrustRegionTeacher is a mixture"):
        words_module(method, teacher=CHOICE, **arguments)


def test_model_with_a_soft_cap_is_refused(family_folder: Callable[[str], Path], words_module: Any) -> None:
    module = words_module(SDFTModule, model=str(family_folder("gemma2")), teacher=CHOICE)
    with pytest.raises(PolicyError, match=r"Gemma2ForCausalLM pass through a soft cap of 2 "):
        module.configure_model()


@pytest.mark.parametrize("lora", [None, WITHOUT_HEAD])
def test_watch_asks_the_reference_and_export_refuses_the_mixture(
    lora: LoRA | None, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    asked = [question(20 + index) for index in range(8)]
    graded = [Example(each.id, each.prompt, each.demonstration, reference="w1") for each in asked]
    data = words_data(validation=[EvaluationSet(graded, {"new": ExactMatch()})])
    module = words_module(SDFTModule, teacher=CHOICE, lora=lora, learning_rate=0.1)
    watch = TeacherWatch(examples=8)
    trainer = make_trainer(max_steps=4, callbacks=[watch], limit_val_batches=1.0, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=data)
    first, *_, last = (each["teacher/demonstration_kl"] for each in watch.history if "teacher/accuracy" in each)
    assert first == last  # though the student has moved
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="of SDFTModule, has no weights of a teacher"):
        load_policy(None, str(tmp_path / "last.ckpt"), "teacher")
    restored = SDFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert restored.teacher_choice == CHOICE
    assert all(torch.equal(each, weights_of(module)[name]) for name, each in weights_of(restored).items())


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"student_share={share} must be .* \[0, 1\)"):
        TrustRegionTeacher(share)
