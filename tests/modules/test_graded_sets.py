from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from lightning_sdft.data import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading import CorrectedToolUse, ExactMatch, StringAnswer
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.records import Example


def examples(*references: str) -> list[Example]:
    prompt = [{"role": "user", "content": "say it"}]
    return [Example(str(n), prompt, reference=reference) for n, reference in enumerate(references)]


def graded_sets() -> GradedSets:
    new = EvaluationSet(examples("a b", "c"), {"new": StringAnswer(), "new_exact": ExactMatch()})
    return GradedSets([new, EvaluationSet(examples("a"), {"old": ExactMatch()}, prior=True)])


def test_accuracies_of_each_grader_and_averages_of_the_leading_ones() -> None:
    graded = graded_sets()
    graded.update(0, graded.sets[0].examples, ["the answer is a b .", "c"])
    graded.update(1, graded.sets[1].examples, ["b"])
    each, averages = graded.accuracies("val/accuracy", "prior")
    assert accuracies(each) == {"val/accuracy/new": 1.0, "val/accuracy/new_exact": 0.5, "prior/old": 0.0}
    assert accuracies(averages) == {"val/accuracy": 1.0, "prior/average": 0.0}


def accuracies(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are no end of an interval."""
    return {name: value for name, value in metrics.items() if not re.search("_(low|high)(/|$)", name)}


def test_accuracies_start_anew_after_reading() -> None:
    graded = graded_sets()
    graded.update(1, graded.sets[1].examples, ["a"])
    assert graded.accuracies("val/accuracy", "prior")[1]["prior/average"] == 1.0
    graded.update(1, graded.sets[1].examples, ["b"])
    assert graded.accuracies("val/accuracy", "prior")[1]["prior/average"] == 0.0


def test_every_accuracy_has_an_interval() -> None:
    new = EvaluationSet(examples(*"a" * 60), {"new": ExactMatch()})
    graded = GradedSets([new, EvaluationSet(examples(*"a" * 60), {"newer": ExactMatch()})])
    graded.update(0, new.examples, ["a"] * 30 + ["b"] * 30)
    graded.update(1, new.examples, ["a"] * 60)
    each, averages = graded.accuracies("val/accuracy", "prior")
    low, high = each["val/accuracy_low/new"], each["val/accuracy_high/new"]
    assert 0.34 < low < 0.42  # 0.5 - 1.96 * sqrt(0.25 / 60) = 0.37
    assert 0.58 < high < 0.66
    assert each["val/accuracy_low/newer"] == each["val/accuracy_high/newer"] == 1
    # The mean with a set that does not vary varies half as much.
    assert averages["val/accuracy"] == 0.75
    assert averages["val/accuracy_low"] == pytest.approx((1 + low) / 2, abs=0.02)
    assert averages["val/accuracy_high"] == pytest.approx((1 + high) / 2, abs=0.02)


class Undecided(ExactMatch):
    """Cannot tell about questions whose reference is a question mark."""

    def grade(self, response: str, reference: Any) -> bool | None:
        return None if reference == "?" else super().grade(response, reference)


def test_what_could_not_be_graded_is_counted_and_is_not_wrong() -> None:
    graded = GradedSets([EvaluationSet(examples("a", "?", "?", "b"), {"new": Undecided()})])
    graded.update(0, graded.sets[0].examples, ["a", "a", "a", "a"])
    each, averages = graded.accuracies("val/accuracy", "prior")
    assert each["val/accuracy/new"] == averages["val/accuracy"] == 0.5
    assert each["val/accuracy_ungraded/new"] == 2
    graded.update(0, graded.sets[0].examples[1:2], ["a"])
    each, averages = graded.accuracies("val/accuracy", "prior")
    assert math.isnan(each["val/accuracy/new"])
    assert math.isnan(averages["val/accuracy"])
    assert each["val/accuracy_ungraded/new"] == 1


def test_verdict_of_every_grader_on_every_response() -> None:
    graded = graded_sets()
    verdicts = graded.verdicts(0, graded.sets[0].examples, ["[ a , b ]", "c"])
    assert verdicts == [{"new": True, "new_exact": False}, {"new": True, "new_exact": True}]


def test_without_a_data_module_the_error_says_what_to_pass() -> None:
    with pytest.raises(DataError, match="pass datamodule="):
        GradedSets().update(0, examples("a"), ["a"])


def test_references_that_cannot_be_graded_are_refused_before_anything_is_generated() -> None:
    with pytest.raises(DataError, match=r"example '0' cannot be graded by calls: a reference like .* not 'a b'"):
        GradedSets([EvaluationSet(examples("a b"), {"calls": CorrectedToolUse()})])


def test_losses_are_means_over_tokens_and_averages_over_sets() -> None:
    sets = [
        EvaluationSet(examples("x"), {}, title="a"),
        EvaluationSet(examples("x"), {}, title="b"),
        graded_sets().sets[0],
    ]
    graded = GradedSets([*sets, EvaluationSet(examples("x"), {}, prior=True, title="old")])
    assert [graded.grades(index) for index in range(4)] == [False, False, True, False]
    graded.lose(0, torch.tensor([1.0]))
    graded.lose(0, torch.tensor([2.0, 3.0, 4.0]))
    graded.lose(1, torch.tensor([0.5]))
    graded.lose(3, torch.tensor([float("nan"), 1.0]))
    expected = {"val/loss/a": 2.5, "val/loss/b": 0.5, "val/loss": 1.5}
    old = {"prior_loss/old": math.inf, "prior_loss/average": math.inf}  # rather than the mean of the others
    assert graded.mean_losses("val/loss", "prior_loss") == {**expected, **old}
    graded.lose(0, torch.tensor([7.0]))
    graded.lose(1, torch.tensor([1.0]))
    graded.lose(3, torch.tensor([1.0]))
    assert graded.mean_losses("val/loss", "prior_loss")["val/loss"] == 4.0
    assert graded.verdicts(0, examples("x", "y"), ["x", "y"]) == [{}, {}]
