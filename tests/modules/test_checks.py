from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lightning_sdft.data import DemonstrationDataModule, Splits
from lightning_sdft.errors import DataError
from lightning_sdft.modules import SFTModule
from lightning_sdft.modules.checks import (
    check_budgets,
    check_complete,
    drop_or_refuse,
    immovable_share,
    naming,
    warn_of_rounding,
)
from lightning_sdft.records import Example

EXAMPLES = [Example(str(n), [{"role": "user", "content": "a " * n}]) for n in range(1, 6)]


class Given(DemonstrationDataModule):
    def load(self) -> Splits:
        return Splits(EXAMPLES)


def long(example: Example) -> str | None:
    words = len(example.prompt[0]["content"].split())
    return f"{words} words" if words > 3 else None


def test_incomplete_example_is_named_with_what_it_lacks_and_the_method() -> None:
    with pytest.raises(DataError, match="example '1' has no context, which SDFTModule learns from"):
        check_complete(EXAMPLES, lambda example: "context", "SDFTModule")
    check_complete(EXAMPLES, lambda example: None, "SDFTModule")


def test_examples_over_a_budget_are_counted_and_the_first_is_named() -> None:
    with pytest.raises(DataError, match="2 of 5 examples are over a token budget, the first is '4': 4 words"):
        check_budgets(EXAMPLES, long)
    check_budgets(EXAMPLES[:3], long)


def test_dropping_counts_and_refusing_keeps() -> None:
    data = Given()
    with pytest.raises(DataError):
        drop_or_refuse(data, long, "error")
    assert len(data.splits.train) == 5
    with pytest.warns(UserWarning, match="dropped 2 of 5 training examples"):
        drop_or_refuse(data, long, "drop")
    assert [example.id for example in data.splits.train] == ["1", "2", "3"]


def test_the_row_is_named_once_however_many_checks_name_it() -> None:
    def refuse(example: Example) -> str | None:
        raise DataError("turn 1 is odd")

    here = replace(EXAMPLES[0], where="rows.jsonl, row 1")
    for named in (naming(refuse), naming(naming(refuse))):
        with pytest.raises(DataError) as refused:
            named(here)
        assert str(refused.value) == "rows.jsonl, row 1: turn 1 is odd (data.on_bad_row=skip leaves such rows out)"
        with pytest.raises(DataError, match=r"^example '1': turn 1 is odd$"):
            named(EXAMPLES[0])


# Weights that are too coarse


def test_share_of_the_weights_that_a_step_does_not_move() -> None:
    # Numbers in [1, 2) are 2^-7 apart in bfloat16, so that less than 2^-8 rounds to nothing.
    weights = [torch.tensor([1.0, 1.5, 0.25, -1.0], dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)]
    assert immovable_share(weights, 2**-9) == 3 / 5
    assert immovable_share(weights, 2**-7) == 0
    assert immovable_share(weights, 2**-12) == 4 / 5
    assert immovable_share([weight.float() for weight in weights], 2**-12) == 0


def test_weights_that_will_not_move_are_counted() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.bfloat16))]
    with pytest.warns(UserWarning, match="75% of the weights .* in bfloat16, .* learning_rate=0.001 .*bf16-mixed"):
        warn_of_rounding(weights, 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rounding(weights, 1e-2)
        warn_of_rounding(weights, 0.0)
        warn_of_rounding([weight.float() for weight in weights], 1e-12)
        warn_of_rounding([], 1e-3)


@pytest.mark.parametrize(
    ("precision", "rate", "times"), [("bf16-true", 1e-5, 1), ("bf16-true", 1e-2, 0), ("bf16-mixed", 1e-5, 0)]
)
def test_fit_says_so_once(
    precision: Any, rate: float, times: int, words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SFTModule, learning_rate=rate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(precision=precision, max_steps=2).fit(module, datamodule=words_data())
    assert sum("will hardly move" in str(each.message) for each in caught) == times


@pytest.mark.parametrize(("precision", "share"), [("bf16-true", 0.06), ("bf16-mixed", 1.0)])
def test_at_1e_5_few_weights_move_in_bfloat16_and_all_in_float32(
    precision: Any, share: float, make_data: Any, make_trainer: Any
) -> None:
    # What the documentation of learning_rate says of the laptop model, and the warning without training it.
    start, module = (
        SFTModule("zoo/laptop", max_prompt_tokens=16, max_completion_tokens=14, warmup_steps=0) for _ in range(2)
    )
    trainer = make_trainer(precision=precision, max_steps=50, max_epochs=50, accumulate_grad_batches=1)
    trainer.fit(module, datamodule=make_data(batch_size=4, micro_batch_size=4))
    start.configure_model()
    before = [weight.to(module.policy.model.dtype) for weight in start.policy.parameters()]
    changed = sum(int((ours != first).sum()) for ours, first in zip(module.policy.parameters(), before, strict=True))
    assert changed / sum(weight.numel() for weight in before) == pytest.approx(share, abs=0.015)
    assert 1 - immovable_share(before, 1e-5) == pytest.approx(share, abs=0.015)
