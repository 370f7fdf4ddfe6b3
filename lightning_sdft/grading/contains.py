"""Grades free-text answers without a judge: does the response contain the reference answer word for word?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from lightning_sdft.grading.base import Grader

__all__ = ["AnswerContained", "plain_words"]

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
STOP = re.compile(r"\.(?!\d)|(?<!\d)\.")
"""A full stop that is not a decimal point."""


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

    The reference is a text, or ``{"answer": text}``. If it has no words, the response is not graded.

    Example:
        >>> AnswerContained().grade("It was the Brenna Fault.", {"answer": "The Brenna Fault"})
        True
        >>> AnswerContained().grade("Japan, Norway", {"answer": "Norway and Japan"})
        False
    """

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the response contains the words of the answer, one after another."""
        answer = reference["answer"] if isinstance(reference, Mapping) else reference
        wanted = plain_words(str(answer))
        if not wanted:
            return None
        return f" {' '.join(wanted)} " in f" {' '.join(plain_words(response))} "
