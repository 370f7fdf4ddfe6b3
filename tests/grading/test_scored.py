from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import distributed

from lightning_sdft.data import EvaluationSet
from lightning_sdft.errors import SettingError
from lightning_sdft.grading import Feedback, Scored
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.records import Example, Message
from tests.launch import in_processes

ASKED = [Message(role="user", content="say it")]


class Given(Scored):
    """Answers are their own scores."""

    def score(self, response: str, reference: Any) -> float | None:
        return None if response == "?" else float(response)


def graded(*references: str) -> GradedSets:
    examples = [Example(str(number), ASKED, reference=each) for number, each in enumerate(references)]
    return GradedSets([EvaluationSet(examples, {"new": Given(0.6)})])


def test_the_mean_score_is_reported_with_its_interval() -> None:
    sets = graded(*"a" * 40)
    sets.update(0, sets.sets[0].examples, ["0.2"] * 20 + ["0.8"] * 20)
    each, averages = sets.accuracies("val/accuracy", "prior")
    assert each["val/accuracy/new"] == averages["val/accuracy"] == pytest.approx(0.5)
    assert 0.38 < each["val/accuracy_low/new"] < 0.44  # 0.5 - 1.96 * 0.3 / sqrt(40) = 0.41
    assert 0.56 < each["val/accuracy_high/new"] < 0.62


def test_scores_start_anew_after_reading() -> None:
    sets = graded("a")
    for score in ("0.25", "0.75"):
        sets.update(0, sets.sets[0].examples, [score])
        assert sets.accuracies("val/accuracy", "prior")[1]["val/accuracy"] == float(score)


def test_what_has_no_score_is_counted_and_not_averaged() -> None:
    sets = graded("a", "b", "c")
    sets.update(0, sets.sets[0].examples, ["?", "0.5", "?"])
    each, _ = sets.accuracies("val/accuracy", "prior")
    assert each["val/accuracy/new"] == 0.5
    assert each["val/accuracy_ungraded/new"] == 2


def test_scores_are_kept_whole_while_a_model_in_bfloat16_answers() -> None:
    grader = Given()
    torch.set_default_dtype(torch.bfloat16)
    try:
        grader.update(["0.301"], [None])
        assert float(grader.compute()) == pytest.approx(0.301, abs=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


def test_where_answers_are_right_or_wrong_the_score_must_be_high_enough() -> None:
    assert Given(0.6).grade_all(["0.6", "0.5", "?"], [None] * 3) == [True, False, None]
    found = Given(0.6).feedback_all(["0.6", "0.25"], [None] * 2)
    assert found == [Feedback(True), Feedback(False, "The answer scores 0.25, and 0.6 was needed.")]
    with pytest.raises(SettingError, match="at_least"):
        Given(1.5)


def test_without_answers_there_is_no_mean() -> None:
    assert math.isnan(float(Given().compute()))


def mean_of_two_processes() -> None:
    distributed.init_process_group("gloo")
    try:
        mine = [["0.1", "0.2", "0.9"], []][distributed.get_rank()]
        sets = graded(*"a" * 3)
        if mine:
            sets.update(0, sets.sets[0].examples, mine)
        assert sets.accuracies("val/accuracy", "prior")[1]["val/accuracy"] == pytest.approx(0.4)
    finally:
        distributed.destroy_process_group()


def test_the_mean_is_over_all_processes_even_if_one_has_no_answers() -> None:
    in_processes(2, mean_of_two_processes)
