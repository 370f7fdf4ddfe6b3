from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data.string_skills import STYLES
from lightning_sdft.grading.string_answer import StringAnswer


@pytest.mark.parametrize(
    ("response", "reference", "verdict"),
    [
        ("c b a", "c b a", True),
        ("  c b\na ", "c b a", True),
        ("the answer is c b a .", "c b a", True),
        ("c b", "c b a", False),
        ("c b a a", "c b a", False),
        ("a b c", "c b a", False),
        ("cba", "c b a", False),
        ("", "c b a", False),
        ("the answer is .", "c b a", False),
        ("c b a , then d", "c b a", False),
        ("C b a", "c b a", False),
        ("c 1 b a", "c b a", True),
        ("n", "n", True),
    ],
)
def test_letters_must_be_the_expected_ones_in_order(response: str, reference: Any, verdict: bool) -> None:
    assert StringAnswer().grade(response, reference) is verdict


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("letters", ["a", "a b b p", "o m i"])
def test_style_does_not_matter_but_the_letters_do(style: str, letters: str) -> None:
    answer = letters.split()
    assert StringAnswer().grade(STYLES[style](answer), letters)
    assert not StringAnswer().grade(STYLES[style]([*answer, "c"]), letters)


def test_accuracy() -> None:
    grader = StringAnswer()
    grader.update(["a b", "[ a , b ]", "b a"], ["a b"] * 3)
    assert grader.compute().item() == pytest.approx(2 / 3)


def test_accents_and_alternatives() -> None:
    assert StringAnswer().grade("the answer is e\u0301 a .", "\u00e9 a") is True
    assert StringAnswer().grade("the answer is c b .", ["a b", "c b"]) is True
    assert StringAnswer().grade("the answer is c b .", None) is False
