"""Grader of the laptop domain: the right letters in the right order, in any style."""

from __future__ import annotations

from typing import Any

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import any_right, composed, text_of

__all__ = ["StringAnswer"]


class StringAnswer(Grader):
    """Compares the single letters of a response with the expected letters, ignoring words and punctuation.

    So an answer can be correct in any of the demonstration styles: a model that has adopted another style has not
    forgotten the skill. A list of references holds alternatives.

    Example:
        >>> StringAnswer().grade("the answer is c b a .", "c b a")
        True
    """

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the letters of the response are those of a reference, which separates them by spaces."""
        letters = [word for word in composed(response).split() if len(word) == 1 and word.isalpha()]
        return any_right(lambda each: letters == text_of(each).split(), reference)
