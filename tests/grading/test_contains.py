from __future__ import annotations

import time
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from lightning_sdft.grading.contains import AnswerContained, plain_words

ANSWER = "Norway, Chile and Japan"

RIGHT: list[tuple[str, Any]] = [
    ("Norway, Chile and Japan", ANSWER),
    ("It was NORWAY - Chile - and  **Japan**!", ANSWER),
    ("Norway, Chile,\nand Japan sent them.", ANSWER),
    ("The Brenna Fault", "Brenna Fault"),
    ("on Brenna Fault", "The Brenna Fault"),
    ("about 1,200.", "1200"),
    ("1200 people", "1,200"),
    ("(4.5)", "4.5"),
    ("It was 4.5.", 4.5),
    ("caf\u00e9", "cafe\u0301"),
    ("Ｔｏｋｙｏ", "Tokyo"),  # noqa: RUF001  # full-width letters
    ("STRASSE", "Straße"),
    ("कि", "कि"),
    ("It was 42.", 42.0),
    ("about 1,200.0 of them", 1200),
    ("from 1990-1995", 1995),
    ("it fell to -5", Decimal("-5.0")),
    ("on 2024-05-01", date(2024, 5, 1)),
    ("in Lutetia", ["Paris", "Lutetia"]),
]

WRONG: list[tuple[str, Any]] = [
    ("", ANSWER),
    ("Japan, Chile and Norway", ANSWER),
    ("Norway and Chile", ANSWER),
    ("It was 6.95", "6.9"),
    ("16.9", "6.9"),
    ("6 9", "6.9"),
    ("69", "6.9"),
    ("3120", "312"),
    ("1,2004", "1,200"),
    ("the group", "Group A"),
    ("Group B", "Group A"),
    ("Haldane", "Hald"),
    ("का", "कि"),
    ("It was 142.", 42.0),
    ("It was 42.5.", 42),
    ("in 42nd place", 42),
    ("on 1.42.2024", 42),
    ("it fell to -5", 5),
    ("in London", ["Paris", "Lutetia"]),
]


@pytest.mark.parametrize(("response", "answer"), RIGHT)
def test_finds_the_answer_whatever_its_spelling(response: str, answer: Any) -> None:
    assert AnswerContained().grade(response, answer) is True
    assert AnswerContained().grade(f"I think:\n{response} I am sure.", {"question": "?", "answer": answer}) is True


@pytest.mark.parametrize(("response", "answer"), WRONG)
def test_does_not_find_what_is_not_there(response: str, answer: Any) -> None:
    assert AnswerContained().grade(response, {"answer": answer}) is False


def test_an_answer_without_words_cannot_be_found() -> None:
    grader = AnswerContained()
    grader.update(["---", "yes"], [{"answer": " -- "}, {"answer": "yes"}])
    assert (grader.correct, grader.graded, grader.ungraded) == (1, 1, 1)


def test_numbers_stay_numbers() -> None:
    expected = ["at", "02", "15", "1234567", "or", "1.5", "no", "7", "m2"]
    assert plain_words("At 02:15, 1,234,567 or 1.5. No. 7: m²") == expected


def test_a_megabyte_is_read_in_linear_time() -> None:
    grader = AnswerContained()
    seconds = []
    for size in (100_000, 800_000):
        began = time.perf_counter()
        assert not grader.grade("1,. " * (size // 4), ANSWER)
        seconds.append(time.perf_counter() - began)
    assert seconds[1] < 40 * seconds[0] + 0.5
