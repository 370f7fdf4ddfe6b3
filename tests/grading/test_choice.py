from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading import Choice


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b) Paris", "B"),
        ("B. Paris, because A is wrong", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("The answer is B.", "B"),
        ("The answer is B because C is not.", "B"),
        ("the correct answer is: (b)", "B"),
        ("Answer: **B**", "B"),
        ("<answer>B</answer>", "B"),
        (r"So it is $\boxed{B}$.", "B"),
        ("First I said the answer is A, but the answer is B.", "B"),
        ("A would be too small. Hence B.", "B"),
        ("A dog barks, hence B is right. A bird sings.", "B"),
        ("Option A fails, so I choose option B", "B"),
        ("The answer is C. Option B is wrong.", "C"),
        ("The answer is a dog, so B", "B"),
        ("D'Artagnan is in B", "B"),
        ("Paris", None),
        ("", None),
        ("the best", None),
        ("K", None),
    ],
)
def test_the_letter_that_is_chosen(response: str, letter: str | None) -> None:
    assert Choice().chosen(response) == letter


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        ("B", "B", True),
        ("B", "b", True),
        ("B", "B. Paris", True),
        ("B", "(B)", True),
        ("B", ["A", "B"], True),
        ("B", "A", False),
        ("Paris", "B", False),
    ],
)
def test_it_must_be_that_of_the_reference(response: str, reference: Any, right: bool) -> None:
    assert Choice().grade(response, reference) is right


@pytest.mark.parametrize("reference", ["Paris", "K", 2, None, ["A", "Paris"]])
def test_a_reference_without_a_letter_is_refused(reference: Any) -> None:
    with pytest.raises(DataError, match="must be one of the letters ABCDEFGHIJ, or begin with one, not"):
        Choice().check_reference(reference)
    Choice().check_reference(["a", "B. Paris"])


def test_the_letters_may_be_others() -> None:
    assert Choice("ABK").chosen("K") == "K"
    assert Choice("AB").chosen("C") is None
    for letters in ("", "A1", "Aa"):
        with pytest.raises(SettingError, match="must be letters, each once"):
            Choice(letters)


def test_feedback_says_which_letter_was_read_and_not_which_is_right() -> None:
    found = Choice().feedback_all(["The answer is B.", "Answer: A", "Who knows."], ["B", "B", "B"])
    assert [each.message for each in found] == [
        "",
        "The answer chooses A, which is wrong.",
        "The answer chooses no letter.",
    ]
