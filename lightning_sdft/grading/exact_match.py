"""The simplest grader: the whole response must equal the reference."""

from __future__ import annotations

from typing import Any

from lightning_sdft.grading.base import Grader

__all__ = ["ExactMatch"]


class ExactMatch(Grader):
    r"""Compares the whole response with the reference as text, ignoring white space at either end.

    Example:
        >>> ExactMatch().grade(" 42\n", 42)
        True
        >>> ExactMatch().grade("It is 42.", 42)
        False
    """

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the stripped response equals the stripped reference."""
        return response.strip() == str(reference).strip()
