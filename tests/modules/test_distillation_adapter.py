"""Distillation of a student that has an adapter: its teachers, precisions, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.callbacks import BaseComparison, KLToBase
from lightning_sdft.modules import DistillationModule, ReinvokeModule, SDFTModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapted_layers, adapter_weights, using_adapter
from lightning_sdft.policy.quantized import stored_as
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.teacher import (
    AdapterTeacher,
    BaseTeacher,
    CopiedTeacher,
    EMATeacher,
    FullTeacher,
    LiveTeacher,
    SharedTeacher,
    TeacherChoice,
)
from tests.conftest import make_model, make_tokenizer, move_adapter
from tests.modules.conftest import EXAMPLES, SHOWN, STUDENT_PROMPTS, TEACHER_PROMPTS
from tests.modules.dense import forward_kl, log_probabilities, step, token_ids, weigh

LORA = LoRA(rank=3, target_modules=["q_proj", "down_proj", "lm_head"], modules_to_save=["norm"])


def ready(module: Any) -> Any:
    """A module that can step, in train mode, whose adapters have moved."""
    module.configure_model()
    move_adapter(module.policy.model)
    move_adapter(module.policy.model, TEACHER, seed=1)
    return module


# The step


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("choice", "adapter"), [(CopiedTeacher(), TEACHER), (BaseTeacher(), None), (LiveTeacher(), STUDENT)]
)
def test_loss_and_gradient_equal_the_divergence_of_the_whole_logits(
    choice: TeacherChoice, adapter: str | None, checkpointing: bool, words_module: Callable[..., DistillationModule]
) -> None:
    arguments = {"teacher": choice, "lora": LORA, "gradient_checkpointing": checkpointing}
    module = ready(words_module(DistillationModule, **SHOWN, **arguments))
    assert module.policy.model.is_gradient_checkpointing is checkpointing
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    parts = []
    for item, rollout in zip(group.items, group.rollouts, strict=True):
        prompts = (token_ids(each[EXAMPLES.index(item.example)]) for each in (STUDENT_PROMPTS, TEACHER_PROMPTS))
        student = log_probabilities(module.policy.model, next(prompts), rollout.completion)
        with torch.no_grad(), using_adapter(adapted_layers(module.policy.model), adapter):
            teacher = log_probabilities(module.policy.model, next(prompts), rollout.completion)
        parts.append(forward_kl(student, teacher))
    expected = weigh(parts, 0, "sequence")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert loss > 0.1
    trained = adapter_weights(module.policy.model, STUDENT)
    loss.backward()
    scale = max(float(each.abs().max()) for each in torch.autograd.grad(expected, trained.values(), retain_graph=True))
    for weight, gradient in zip(trained.values(), torch.autograd.grad(expected, trained.values()), strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-4 * scale)
    assert {name for name, each in module.policy.model.named_parameters() if each.grad is not None} == trained.keys()


@pytest.mark.parametrize(("choice", "adapter"), [(CopiedTeacher(), TEACHER), (BaseTeacher(), None)])
def test_teacher_can_write_the_rollouts(
    choice: TeacherChoice, adapter: str | None, words_module: Callable[..., DistillationModule]
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher=choice, lora=LORA, rollout_source="teacher"))
    prompts = [token_ids(each) for each in TEACHER_PROMPTS]
    torch.manual_seed(0)
    written = [each.completion for each in module.sample(EXAMPLES)]
    torch.manual_seed(0)
    with using_adapter(adapted_layers(module.policy.model), adapter):
        assert written == [each.completion for each in generate(module.policy, prompts, 8, Sampling())]
    torch.manual_seed(0)
    assert written != [each.completion for each in generate(module.policy, prompts, 8, Sampling())]


# A fit


class Start(Callback):
    """Keeps the weights that training starts from."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        self.adapters = adapters(pl_module)


def adapters(module: Any) -> list[list[Tensor]]:
    """Weights of the student's adapter and of the teacher's."""
    names = (STUDENT, TEACHER)
    return [[each.detach().clone() for each in adapter_weights(module.policy.model, name).values()] for name in names]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (SFTModule, {}),
        (SDFTModule, {}),
        (SDFTModule, {"teacher": BaseTeacher()}),
        (SDFTModule, {"lora": replace(LORA, base="nf4")}),
        (SFTModule, {"lora": replace(LORA, base="int8")}),
    ],
)
def test_training_moves_adapters_alone(
    method: Any, arguments: dict[str, Any], precision: Any, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    module, start = words_module(method, **{"lora": LORA, **arguments}), Start()
    moves = [EMATeacher(0.1)] if method is SDFTModule and "teacher" not in arguments else []
    trainer = make_trainer(callbacks=[start, *moves], max_steps=3, precision=precision, gradient_clip_val=1.0)
    trainer.fit(module, datamodule=words_data())
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, start.weights[name])}
    assert moved == {f"policy.model.{name}" for name in adapter_weights(module.policy.model)}
    assert any(f".{TEACHER}." in name for name in moved) == bool(moves)
    fixed = [weight for name, weight in module.named_parameters() if name not in moved]
    dtypes = {weight.dtype for weight in fixed if weight.is_floating_point()}
    assert module.lora.base == stored_as(module.policy.model)
    assert dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert {weight.dtype for weight in adapter_weights(module.policy.model).values()} == {torch.float32}
    optimizer = {id(each) for group in trainer.optimizers[0].param_groups for each in group["params"]}
    assert optimizer == {id(weight) for weight in adapter_weights(module.policy.model, STUDENT).values()}


def test_teacher_starts_from_the_student_as_it_is_when_fit_starts(
    words_module: Any, words_data: Any, make_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    module = words_module(SDFTModule, lora=LORA)
    trained: list[Tensor] | None = None
    for _ in range(2):  # the second stage of continual learning goes on with the adapter of the first
        start = Start()
        with caplog.at_level("INFO"):
            make_trainer(max_steps=2, callbacks=[start]).fit(module, datamodule=words_data())
        assert same(*start.adapters)
        assert trained is None or same(start.adapters[0], trained)
        trained, teacher = adapters(module)
        assert same(teacher, start.adapters[1])  # it is frozen
        assert not same(trained, teacher)
    assert caplog.text.count("the teacher stays frozen") == 2


@pytest.mark.parametrize("method", [DistillationModule, ReinvokeModule])
def test_another_model_can_teach_a_student_with_an_adapter(
    method: Any, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    make_model("gpt2", seed=5).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    module = words_module(method, lora=LORA, teacher=CopiedTeacher(model=str(tmp_path / "other")))
    start = Start()
    make_trainer(max_steps=2, callbacks=[start]).fit(module, datamodule=words_data())
    assert isinstance(module.teacher, FullTeacher)
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, start.weights[name])}
    assert moved == {f"policy.model.{name}" for name in adapter_weights(module.policy.model, STUDENT)}
    expected = Policy.load(str(tmp_path / "other")).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.teacher.policy.state_dict().items())


@pytest.mark.parametrize("base", ["full", "nf4"])
def test_fit_evaluates_and_compares_with_the_base(
    base: Any, make_module: Any, make_data: Any, make_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module = make_module(SDFTModule, pretrained=True, lora=LoRA(rank=4, base=base), max_completion_tokens=24)
    callbacks = [EMATeacher(0.05), KLToBase(), BaseComparison()]
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
    trainer = make_trainer(callbacks=callbacks, **options)
    trainer.fit(module, datamodule=make_data())
    table = capsys.readouterr().out
    assert "SDFTModule after 4 steps" in table
    assert "new task" in table
    assert trainer.callback_metrics["val/kl_to_base"] > 1e-3
    assert callbacks[2].base["prior/average"] > 0.8  # the base is the shipped model
    first, *_ = trainer.predict(module, datamodule=make_data())[0]  # batches of the first set
    assert all(record["response"] for record in first)


# The choice of a teacher


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(CopiedTeacher(), AdapterTeacher), (BaseTeacher(), SharedTeacher), (LiveTeacher(), SharedTeacher)],
)
def test_kinds_of_teachers(
    choice: TeacherChoice, expected: type, words_module: Callable[..., DistillationModule]
) -> None:
    module = words_module(DistillationModule, teacher=choice, lora=LORA)
    module.configure_model()
    assert type(module.teacher) is expected
    own = {id(weight) for weight in module.policy.parameters()}
    assert {id(weight) for weight in module.parameters()} == own  # one copy of the model


def test_base_without_an_adapter_is_refused_with_the_way_out(words_module: Callable[..., DistillationModule]) -> None:
    with pytest.raises(ValueError, match=r"BaseTeacher .* there is none: set lora, or .* leave EMATeacher out"):
        words_module(DistillationModule, teacher=BaseTeacher())
