"""The simplest grader: the whole response must equal the reference."""

from __future__ import annotations

from typing import Any

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import any_right, same

__all__ = ["ExactMatch"]


class ExactMatch(Grader):
    r"""Compares the whole response with the reference, ignoring white space at either end.

    Text is compared as text, a number by its value, a date by its day, and a list holds alternatives;
    :mod:`lightning_sdft.grading.references` has the whole rule.

    Example:
        >>> ExactMatch().grade(" 42\n", 42.0)
        True
        >>> ExactMatch().grade("Lutetia", ["Paris", "Lutetia"])
        True
        >>> ExactMatch().grade("It is 42.", 42)
        False
    """

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the stripped response is one of the references."""
        return any_right(lambda each: same(response, each), reference)
