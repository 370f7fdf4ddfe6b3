"""A grader without judge for answers in free text: does the response contain the reference answer, word for word?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from lightning_sdft.grading.base import Grader

__all__ = ["AnswerContained", "plain_words"]

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
STOP = re.compile(r"\.(?!\d)|(?<!\d)\.")
"""A full stop that is no decimal point."""


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation, signs, thousands separators and the word "the".

    Example:
        >>> plain_words("The dam broke at 02:15; it held 1,200 m³ (4.5%).")
        ['dam', 'broke', 'at', '02', '15', 'it', 'held', '1200', 'm3', '4.5']
    """
    text = THOUSANDS.sub("", unicodedata.normalize("NFKC", text).casefold())
    text = STOP.sub(" ", text)
    # letters, numbers and the marks that belong to letters
    text = "".join(sign if sign == "." or unicodedata.category(sign)[0] in "LNM" else " " for sign in text)
    return [word for word in text.split() if word != "the"]


class AnswerContained(Grader):
    """Share of responses that contain the reference answer as it is, compared by :func:`plain_words`.

    It needs no judge, and is not to be compared with one: it calls wrong what is said in other words or in another
    order, and right a response that contains the answer among wrong statements. Meant for short answers.

    The reference is a text, or ``{"answer": text}``. With an answer that has no words a response is ungraded.

    Example:
        >>> AnswerContained().grade("It was the Brenna Fault.", {"answer": "The Brenna Fault"})
        True
        >>> AnswerContained().grade("Japan, Norway", {"answer": "Norway and Japan"})
        False
    """

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the words of the answer stand in the response, one after another."""
        answer = reference["answer"] if isinstance(reference, Mapping) else reference
        wanted = plain_words(str(answer))
        if not wanted:
            return None
        return f" {' '.join(wanted)} " in f" {' '.join(plain_words(response))} "
