from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, CPTModule, SDFTModule, SFTModule, surprise
from lightning_sdft.modules.surprise import token_losses
from lightning_sdft.policy import Policy
from lightning_sdft.records import Example, TokenSequence
from tests.launch import in_processes
from tests.modules.conftest import question
from tests.modules.dense import log_probabilities, token_ids

SEQUENCES = [
    TokenSequence(token_ids("<user> w1 <end> <assistant>"), token_ids("w2 w3 w4 <end>")),
    TokenSequence(token_ids("<user> w6 w7 w8 <end> <assistant>"), token_ids("w9")),
    TokenSequence(token_ids("<user> w3 <end> <assistant>"), token_ids("w5 <end>")),
]


def dense(policy: Policy, sequence: TokenSequence) -> list[float]:
    with torch.no_grad():
        logs = log_probabilities(policy.model.eval(), sequence.prompt, sequence.completion)
    return [-logs[place, token].item() for place, token in enumerate(sequence.completion)]


@pytest.mark.parametrize("batch_tokens", [1, 14, 8192])
def test_equals_what_the_whole_logits_say(llama: Policy, monkeypatch: pytest.MonkeyPatch, batch_tokens: int) -> None:
    monkeypatch.setattr(surprise, "BATCH_TOKENS", batch_tokens)
    expected = [loss for index in (2, 1, 0) for loss in dense(llama, SEQUENCES[index])]
    llama.model.train()
    assert token_losses(llama, SEQUENCES).tolist() == pytest.approx(expected, rel=1e-4)
    assert llama.model.training
    assert token_losses(llama, []).tolist() == []


NEW = [question(number) for number in (20, 21, 22)]
OLD = [question(number) for number in (23, 24)]
SETS = [EvaluationSet(NEW, {}, title="mine"), EvaluationSet(OLD, {}, prior=True, title="old")]


def loss(module: CausalLMModule, examples: list[Example]) -> float:
    losses = [each for sequence in module.demonstrations(examples) for each in dense(module.policy, sequence)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("method", [SFTModule, SDFTModule, CPTModule])
def test_validation_without_references_logs_the_loss_of_the_demonstrations(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, method: type[CausalLMModule]
) -> None:
    module, data = words_module(method), words_data(validation=SETS)
    trainer = make_trainer(max_steps=4, limit_val_batches=1.0)
    trainer.validate(module, datamodule=data, verbose=False)
    before = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert before == pytest.approx(
        {
            "val/loss/mine": loss(module, NEW),
            "val/loss": loss(module, NEW),
            "prior_loss/old": loss(module, OLD),
            "prior_loss/average": loss(module, OLD),
        },
        rel=1e-4,
    )
    trainer.fit(module, datamodule=data)
    after = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert after["val/loss"] == pytest.approx(loss(module, NEW), rel=1e-4)
    assert after["val/loss"] != pytest.approx(before["val/loss"], rel=1e-4)
    trainer.test(module, datamodule=words_data(test=SETS), verbose=False)
    assert trainer.callback_metrics["test/loss"].item() == after["val/loss"]
    assert trainer.callback_metrics["test/prior_loss/old"].item() == after["prior_loss/old"]


def test_examples_without_anything_to_evaluate_by_are_refused_but_can_be_answered(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    bare = EvaluationSet([Example("7", NEW[0].prompt, where="own.csv, row 7")], {}, title="mine")
    data, trainer = words_data(validation=[bare], test=[bare]), make_trainer(limit_val_batches=1.0)
    for run in (trainer.fit, trainer.validate, trainer.test):
        with pytest.raises(
            DataError, match=r"own.csv, row 7: there is neither a reference .* nor a demonstration .*; give data"
        ):
            run(words_module(SFTModule), datamodule=data)
    (records,) = trainer.predict(words_module(SFTModule), datamodule=data)
    assert [(each["id"], each["reference"], each["correct"]) for each in records] == [("7", None, {})]
    assert records[0]["response"]


def test_a_demonstration_over_its_budget_is_refused_or_left_out_in_validation_too(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule, max_completion_tokens=2)
    with pytest.raises(DataError, match="its demonstration has 5 tokens, max_completion_tokens=2"):
        make_trainer().validate(module, datamodule=words_data(validation=[EvaluationSet([question(3)], {}, title="x")]))
    free = EvaluationSet([question(3), question(5), question(4)], {}, title="x")
    data = words_data(validation=[free, EvaluationSet([question(3)], {"graded": ExactMatch()})])
    module, trainer = (
        words_module(SFTModule, max_completion_tokens=3, over_budget="drop"),
        make_trainer(limit_val_batches=1.0),
    )
    with pytest.warns(UserWarning, match="left out 1 of 3 evaluated examples over their token budgets"):
        trainer.validate(module, datamodule=data, verbose=False)
    assert [[each.id for each in one.examples] for one in module.graded.sets] == [["5", "4"], ["3"]]
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(
        loss(module, [question(5), question(4)]), rel=1e-4
    )


# Two processes


def shared_validation(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    """Validate three demonstrations of different lengths, of which this process has two or one."""
    module, asked = words_module(SFTModule), [question(number) for number in (20, 21, 23)]
    trainer = make_trainer(devices=2, strategy="ddp", limit_val_batches=1.0)
    trainer.validate(module, datamodule=words_data(validation=[EvaluationSet(asked, {}, title="mine")]), verbose=False)
    sums = [sum(losses) for losses in (dense(module.policy, each) for each in module.demonstrations(asked))]
    lengths = [len(each.completion) for each in module.demonstrations(asked)]
    logged = trainer.callback_metrics["val/loss"].item()
    assert logged == pytest.approx(sum(sums) / sum(lengths), rel=1e-4)
    shares = [(sums[0] + sums[2]) / (lengths[0] + lengths[2]), sums[1] / lengths[1]]
    assert logged != pytest.approx(sum(shares) / 2, rel=1e-3)  # the mean of both means


def test_tokens_of_all_processes_count_alike(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    in_processes(2, shared_validation, words_module, words_data, make_trainer)
