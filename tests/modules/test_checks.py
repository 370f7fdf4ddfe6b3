from __future__ import annotations

import pytest

from lightning_sdft.data import DataError, DemonstrationDataModule, Example, Splits
from lightning_sdft.modules.checks import check_budgets, check_complete, drop_or_refuse

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
