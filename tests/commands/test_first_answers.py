from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.commands.first_answers import settle_answers
from lightning_sdft.evaluation.gaps import Gap
from lightning_sdft.grading.interval import Score


def gap(temperature: float, teacher: float, template: str = "default", tokens: int = 40, truncated: float = 0.0) -> Gap:
    gain = Score(teacher - 0.1, teacher - 0.2, teacher)
    return Gap(temperature, template, Score(0.1, 0, 0.2), Score(teacher, 0, 1), gain, truncated, tokens, 16)


def settled(*gaps: Gap) -> dict[str, Any]:
    return settle_answers(gaps, graded=True, demonstrations=32, limit=96).settings


def test_what_answers_best_is_written_with_the_reason() -> None:
    found = settle_answers([gap(1.0, 0.2), gap(0.5, 0.9, "other"), gap(0.0, 0.8)], True, 32, 96)
    assert found.settings["sampling"] == {
        "temperature": (0.5, "16 questions, shown the demonstration: 0.90 are right like this, 0.20 at 1")
    }
    assert found.settings["teacher_template"][0] == "other"
    assert "0.90 are right, 0.10 without; temperature 0.5" in found.said


def test_defaults_that_serve_are_left_alone() -> None:
    assert set(settled(gap(1.0, 0.88), gap(0.0, 0.9, "other"))) == {"max_completion_tokens"}


def test_where_nothing_helps_nothing_is_changed_and_it_is_said() -> None:
    found = settle_answers([gap(1.0, 0.1), gap(0.0, 0.15, "other")], True, 32, 96)
    assert set(found.settings) == {"max_completion_tokens"}
    assert "may be nothing that SDFT could teach" in found.said


def test_without_references_it_speaks_of_words() -> None:
    found = settle_answers([gap(1.0, 0.2), gap(0.5, 0.9)], False, 32, 96)
    assert "0.90 of the words are those of the demonstration, 0.10 without" in found.said


@pytest.mark.parametrize(
    ("tokens", "truncated", "expected", "reason"),
    [
        (50, 0.0, 64, "at most 5% of the first answers"),
        (20, 0.0, 32, "at most 5% of the first answers"),  # demonstrations, too, have to fit
        (96, 0.2, 96, "20% of the first answers"),
        (96, 0.7, 48, "does not end its answers by itself: 70% of them had 96 tokens"),
    ],
)
def test_the_length_is_that_of_answers_where_they_end(
    tokens: int, truncated: float, expected: int, reason: str
) -> None:
    length, why = settled(gap(1.0, 0.9, tokens=tokens, truncated=truncated))["max_completion_tokens"]
    assert length == expected
    assert reason in why
