from __future__ import annotations

import pytest

from lightning_sdft.data import DataError, EvaluationSet, Example
from lightning_sdft.grading import ExactMatch, StringAnswer
from lightning_sdft.modules.evaluation import GradedSets


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
    assert each == {"val/accuracy/new": 1.0, "val/accuracy/new_exact": 0.5, "prior/old": 0.0}
    assert averages == {"val/accuracy": 1.0, "prior/average": 0.0}


def test_accuracies_start_anew_after_reading() -> None:
    graded = graded_sets()
    graded.update(1, graded.sets[1].examples, ["a"])
    assert graded.accuracies("val/accuracy", "prior")[1]["prior/average"] == 1.0
    graded.update(1, graded.sets[1].examples, ["b"])
    assert graded.accuracies("val/accuracy", "prior")[1]["prior/average"] == 0.0


def test_verdict_of_every_grader() -> None:
    graded = graded_sets()
    verdicts = graded.verdicts(0, graded.sets[0].examples[0], "[ a , b ]")
    assert verdicts == {"new": True, "new_exact": False}


def test_without_a_data_module_the_error_says_what_to_pass() -> None:
    with pytest.raises(DataError, match="pass datamodule="):
        GradedSets().update(0, examples("a"), ["a"])
