from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading import Number
from lightning_sdft.grading.number import last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("It is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("$1,234.50", "1234.50"),
        ("1,234,567 people", "1234567"),
        ("in 1,2345", "2345"),
        ("x=-5", "-5"),
        ("10-5", "5"),
        ("\u22123", "-3"),
        (".5", ".5"),
        ("1.5e-3 m", "0.0015"),
        ("12km", "12"),
        ("**72**", "72"),
        ("\\boxed{72}", "72"),
        ("\uff14\uff12", "42"),
        ("#### 72", "72"),
        ("5%", "5"),
        ("first 1, second 2", "2"),
    ],
)
def test_the_last_number_counts(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "Chapter4", "v1.", "x2"])
def test_numbers_in_words_are_none(text: str) -> None:
    assert last_number(text.rstrip(".")) is None


@pytest.mark.parametrize(
    ("response", "reference", "settings", "right"),
    [
        ("It is 42.0.", 42, {}, True),
        ("It is 42.", "6 * 7 = 42\n#### 42", {}, True),
        ("41 or 42", [41, 42], {}, True),
        ("42, not 41", 42, {}, False),
        ("42.1", 42, {}, False),
        ("42.1", 42, {"tolerance": 0.1}, True),
        ("42.11", 42, {"tolerance": 0.1}, False),
        ("99", 100, {"relative": 0.01}, True),
        ("-99", -100, {"relative": 0.01}, True),
        ("98.9", 100, {"relative": 0.01}, False),
        ("98.9", 100, {"relative": 0.01, "tolerance": 2}, True),
        ("0.1", Decimal("0.1"), {}, True),
        ("0.1", 0.1, {}, True),
        ("many", 42, {}, False),
        ("1e999", 42, {}, False),
        ("7", float("nan"), {}, False),
    ],
)
def test_near_numbers_are_right(response: str, reference: Any, settings: dict[str, float], right: bool) -> None:
    assert Number(**settings).grade(response, reference) is right


@pytest.mark.parametrize("reference", ["many", None, True, {"answer": 1}, [1, "many"]])
def test_a_reference_without_a_number_is_refused(reference: Any) -> None:
    with pytest.raises(DataError, match="a reference with a number is needed, not"):
        Number().check_reference(reference)
    Number().check_reference(["72", 3])


def test_a_tolerance_is_not_negative() -> None:
    with pytest.raises(SettingError, match="tolerance"):
        Number(tolerance=-0.1)


def test_feedback_says_which_number_was_read_and_not_which_is_right() -> None:
    found = Number().feedback_all(["It is 41 or 42.", "It is 40, no, 1,041.", "None."], [42, 42, 42])
    assert [each.correct for each in found] == [True, False, False]
    messages = ["", "The answer's last number, 1041, is wrong.", "The answer has no number."]
    assert [each.message for each in found] == messages
