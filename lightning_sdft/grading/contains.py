"""Grades free-text answers without a judge: does the response contain the reference answer word for word?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import alternatives, as_number, same_number, text_of

__all__ = ["AnswerContained", "plain_words"]

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
STOP = re.compile(r"\.(?!\d)|(?<!\d)\.")
"""A full stop that is not a decimal point."""

NUMBER_IN_TEXT = re.compile(r"(?<![\w.])[+-]?[0-9]+(?:\.[0-9]+)?(?!\w|\.[0-9])")
"""A number that stands by itself, not one within a word or a date such as 1.5.2024."""


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation, signs, thousands separators and the word "the".

    Example:
        >>> plain_words("The dam broke at 02:15; it held 1,200 m³ (4.5%).")
        ['dam', 'broke', 'at', '02', '15', 'it', 'held', '1200', 'm3', '4.5']
    """
    text = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    text = STOP.sub(" ", text)
    # Unicode categories: letters, numbers, and the marks that modify letters
    text = "".join(sign if sign == "." or unicodedata.category(sign)[0] in "LNM" else " " for sign in text)
    return [word for word in text.split() if word != "the"]


class AnswerContained(Grader):
    """Share of responses that contain the words of the reference answer in order, after :func:`plain_words`.

    It needs no judge, but its accuracy cannot be compared with a judge's: an answer in other words or in another order
    counts as wrong, and a response that contains the answer among wrong statements counts as correct. It is meant for
    short answers.

    The reference is a text, or ``{"answer": text}``. Instead of a text it may be a number, which is found by its value
    (``42.0`` in "42 people"), a date, or a list of alternatives. If it has no words, the response is not graded.

    Example:
        >>> AnswerContained().grade("It was the Brenna Fault.", {"answer": "The Brenna Fault"})
        True
        >>> AnswerContained().grade("Japan, Norway", {"answer": "Norway and Japan"})
        False
    """

    def check_reference(self, reference: Any) -> None:
        """Refuse an object without ``answer``."""
        if isinstance(reference, Mapping) and "answer" not in reference:
            raise DataError(f'a reference like {{"answer": text}} is needed, not {reference!r}')

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the response contains the words of an answer, one after another."""
        answer = reference["answer"] if isinstance(reference, Mapping) else reference
        verdicts = [_contains(response, each) for each in alternatives(answer)]
        given = [verdict for verdict in verdicts if verdict is not None]
        return any(given) if given else None


def _contains(response: str, answer: Any) -> bool | None:
    number = as_number(answer)
    if number is not None:
        text = THOUSANDS.sub("", unicodedata.normalize("NFKC", response))
        return any(same_number(found, number) for found in NUMBER_IN_TEXT.findall(text))
    wanted = plain_words(text_of(answer))
    if not wanted:
        return None
    return f" {' '.join(wanted)} " in f" {' '.join(plain_words(response))} "
