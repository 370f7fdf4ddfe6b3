"""What stops a run: examples that lack something or do not fit a budget, and a loss that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.example import DataError, Example

__all__ = ["NonFiniteLossError", "OverBudget", "check_budgets", "check_complete", "drop_or_refuse"]

OverBudget = Literal["error", "drop"]

SAMPLE = " (lightning-sdft demonstrate samples demonstrations from another model)"

Problem = Callable[[Example], str | None]
"""Says what is wrong with an example, or ``None``."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is infinite or not a number; the message names the examples."""

    def __init__(self, what: str, value: float, step: int, examples: Sequence[Example]) -> None:
        super().__init__(
            f"the {what} is {value} at step {step} on the examples {[example.id for example in examples]}; training "
            "stops before the weights change, and the last checkpoint is good. Lower the learning rate, or look at "
            "these examples"
        )


def check_complete(examples: Sequence[Example], missing: Problem, method: str) -> None:
    """Refuse examples that lack what the method learns from.

    Raises:
        DataError: If an example lacks something; the message names it.
    """
    for example in examples:
        lacking = missing(example)
        if lacking is not None:
            raise DataError(
                f"example {example.id!r} has no {lacking}, which {method} learns from; give one, or leave the example "
                f"out of the training data{SAMPLE if lacking == 'demonstration' else ''}"
            )


def check_budgets(examples: Sequence[Example], problem: Problem) -> None:
    """Refuse examples that do not fit a token budget: nothing is ever cut.

    Raises:
        DataError: If there are any; the message counts them and names the first with its lengths.
    """
    found = [(example.id, reason) for example in examples if (reason := problem(example)) is not None]
    if found:
        name, reason = found[0]
        raise DataError(
            f"{len(found)} of {len(examples)} examples are over a token budget, the first is {name!r}: {reason}. "
            "Raise the budget, shorten the examples, or leave training examples out with over_budget=drop"
        )


def drop_or_refuse(datamodule: DemonstrationDataModule, problem: Problem, over_budget: OverBudget) -> None:
    """Leave out training examples over a budget with a warning that counts them, or refuse them.

    Raises:
        DataError: If there are any and ``over_budget`` is ``error``.
    """
    examples = datamodule.splits.train
    if over_budget == "error":
        check_budgets(examples, problem)
    else:
        dropped = datamodule.filter_train(lambda example: problem(example) is None)
        if dropped:
            rank_zero_warn(f"dropped {dropped} of {len(examples)} training examples over their token budgets")
