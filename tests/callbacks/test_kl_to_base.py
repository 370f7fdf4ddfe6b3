from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_sdft.callbacks import KLToBase
from lightning_sdft.callbacks.kl_to_base import sequence_kl
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import GREEDY, TokenSequence
from lightning_sdft.rollout import generate
from tests.launch import in_processes
from tests.modules.conftest import question
from tests.modules.dense import log_probabilities, token_ids

SEQUENCES = [
    TokenSequence(token_ids("<user> w1 <end> <assistant>"), token_ids("w2 w3 w4 <end>")),
    TokenSequence(token_ids("<user> w6 w7 w8 <end> <assistant>"), token_ids("w9")),
]


def dense_kl(policy: Policy, base: Policy, sequence: TokenSequence) -> float:
    """`sum_t KL(policy || base)` of one sequence, from the logits of both models."""
    with torch.no_grad():
        ours, theirs = (log_probabilities(p.model.eval(), sequence.prompt, sequence.completion) for p in (policy, base))
    return (ours.exp() * (ours - theirs)).sum().item()


@pytest.fixture
def policies(llama: Policy) -> tuple[Policy, Policy]:
    """A base model, and one that has moved from it."""
    moved = Policy.load(llama.tokenizer.hugging_face.name_or_path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    return moved, llama


def test_equals_the_divergence_of_the_whole_logits(policies: tuple[Policy, Policy]) -> None:
    moved, base = policies
    expected = [dense_kl(moved, base, sequence) for sequence in SEQUENCES]
    assert min(expected) > 0.1
    assert sequence_kl(moved, base, SEQUENCES) == pytest.approx(expected, rel=1e-4)
    assert sequence_kl(base, moved, SEQUENCES) != pytest.approx(expected, rel=0.05)  # the direction matters


def test_base_itself_is_at_zero_and_modes_are_restored(llama: Policy) -> None:
    assert sequence_kl(llama, llama, SEQUENCES) == [0.0, 0.0]
    assert llama.model.training


def fit(
    callbacks: list[Callback],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    prior: bool = False,
    precision: Any = "32-true",
    **arguments: Any,
) -> Any:
    validation = [EvaluationSet([question(number)], {f"set-{number}": ExactMatch()}) for number in (20, 21)]
    validation.append(EvaluationSet([question(22)], {"old": ExactMatch()}, prior=True))
    options = {"limit_val_batches": 1.0, "max_epochs": 1, "max_steps": -1, "num_sanity_val_steps": -1}
    trainer = make_trainer(callbacks=callbacks, precision=precision, **options)
    trainer.fit(words_module(**arguments), datamodule=words_data(validation=validation[2:] if prior else validation))
    return trainer


class Answers(Callback):
    """Keeps what the module answers to the new task, and to the prior one, in the last validation."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.rollouts: list[Any] = []
        self.prior: list[Any] = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        answers = self.rollouts if dataloader_idx < 2 else self.prior
        answers += outputs["rollouts"]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, modules_to_save=["norm"])])
@pytest.mark.parametrize(("method", "prior"), [(SFTModule, True), (SDFTModule, False)])
def test_fit_logs_the_mean_over_answers(
    method: Any,
    prior: bool,
    lora: LoRA | None,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    answers, callback = Answers(), KLToBase(prior)
    trainer = fit([answers, callback], words_module, words_data, make_trainer, method=method, lora=lora)
    base = Policy.load(trainer.lightning_module.model)
    assert len(answers.rollouts) == 2
    expected = sum(dense_kl(trainer.lightning_module.policy, base, rollout) for rollout in answers.rollouts) / 2
    assert expected > 0.1
    assert trainer.callback_metrics["val/kl_to_base"].item() == pytest.approx(expected, rel=1e-3)
    if prior:
        (own,) = answers.prior
        expected = dense_kl(trainer.lightning_module.policy, base, own)
        assert trainer.callback_metrics["val/kl_to_base_prior"].item() == pytest.approx(expected, rel=1e-3)
    else:
        assert "val/kl_to_base_prior" not in trainer.callback_metrics
    assert callback._base is None  # its memory is free again


def test_answers_that_are_not_graded_are_written_for_it(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    asked = [question(20), question(21)]
    data = words_data(validation=[EvaluationSet(asked, {}, title="free")])
    trainer = make_trainer(callbacks=[KLToBase()], limit_val_batches=1.0, max_epochs=1, max_steps=-1)
    module = words_module(SFTModule)
    trainer.fit(module, datamodule=data)
    base, answers = Policy.load(module.model), module.answering.respond(module.policy, asked)
    expected = sum(dense_kl(module.policy, base, answer) for answer in answers) / 2
    assert expected > 0.1
    assert trainer.callback_metrics["val/kl_to_base"].item() == pytest.approx(expected, rel=1e-3)


def test_base_of_an_adapter_is_the_policy_without_it(
    words_module: Callable[..., CausalLMModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, callback = words_module(SFTModule, lora=LoRA(rank=2)), KLToBase()
    module.configure_model()
    monkeypatch.setattr(Policy, "load", None)  # nothing is loaded
    callback.on_fit_start(Trainer(logger=False), module)
    assert callback._base is not None
    assert callback._base.model is module.policy.model


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_untrained_model_is_at_zero(
    precision: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    # In bf16-true too, where a base in float32 would be as far away as rounding has moved the policy.
    arguments = {"method": SFTModule, "learning_rate": 0.0, "precision": precision}
    trainer = fit([KLToBase()], words_module, words_data, make_trainer, **arguments)
    assert trainer.callback_metrics["val/kl_to_base"].item() == 0.0


def test_prior_skills_alone_give_no_value(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    trainer = fit([KLToBase()], words_module, words_data, make_trainer, prior=True, method=SFTModule)
    assert "val/kl_to_base" not in trainer.callback_metrics


# Two processes


def shared_validation(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    """Validate three answers, of which this process has two or one."""
    questions = [question(number) for number in range(20, 23)]
    validation = [EvaluationSet(questions, {"a": ExactMatch()})]
    data = words_data([question(number) for number in range(4)], validation, batch_size=4, micro_batch_size=2)
    options = {"limit_val_batches": 1.0, "max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 1}
    trainer = make_trainer(callbacks=[KLToBase()], devices=2, strategy="ddp", **options)
    module = words_module(SFTModule)
    trainer.fit(module, datamodule=data)
    base, prompts = Policy.load(module.model), [module.tokenizer.encode(each.prompt) for each in questions]
    answers = generate(module.policy, prompts, 8, GREEDY)
    values = [dense_kl(module.policy, base, answer) for answer in answers]
    logged = trainer.callback_metrics["val/kl_to_base"].item()
    assert min(values) > 0.1
    assert logged == pytest.approx(sum(values) / 3, rel=1e-3)
    assert logged != pytest.approx(((values[0] + values[2]) / 2 + values[1]) / 2, rel=0.01)  # the mean of both means


def test_answers_of_all_processes_count_alike(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    in_processes(2, shared_validation, words_module, words_data, make_trainer)
