"""Grader of the laptop domain: the right letters in the right order, in whatever style they are presented."""

from __future__ import annotations

from typing import Any

from lightning_sdft.grading.base import Grader

__all__ = ["StringAnswer"]


class StringAnswer(Grader):
    """Compares the single letters of a response, words and punctuation aside, with the expected letters.

    So an answer counts whichever of the demonstration styles it is written in: a model that has taken on a foreign
    style has not thereby forgotten a skill.

    Example:
        >>> StringAnswer().grade("the answer is c b a .", "c b a")
        True
    """

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the letters of the response are those of the reference (letters separated by blanks)."""
        letters = [word for word in response.split() if len(word) == 1 and word.isalpha()]
        return letters == str(reference).split()
