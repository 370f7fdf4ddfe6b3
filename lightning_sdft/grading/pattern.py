"""Grades answers by a regular expression."""

from __future__ import annotations

import re
from typing import Any

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import alternatives, any_right, same

__all__ = ["Pattern"]


class Pattern(Grader):
    r"""Compares what a regular expression finds in a response with the reference.

    It is Python's regular expression; its last match counts, and in it the first group that took part, or all of it.
    What is found is compared as :class:`ExactMatch` does. Without ``find``, the reference itself is the regular
    expression, which a response must contain a match of; a list holds alternatives.

    Args:
        find: The regular expression that finds the answer, such as ``\#### (.+)``: YAML and the command line take what
            follows a ``#`` at the beginning, or after a space, for a comment, so write ``\#`` there.
        in_reference: Whether it finds what to compare in references, too, such as the letter of a worked answer.

    Raises:
        SettingError: If it is not a regular expression, or was taken for a comment, or there is none for references.

    Example:
        >>> Pattern(r"#### (.+)").grade("6 * 7 = 42\n#### 42", 42), Pattern().grade("in the year 1848.", r"\b18\d\d\b")
        (True, True)
    """

    def __init__(self, find: str = "", in_reference: bool = False) -> None:
        super().__init__()
        if str(find) == "None":  # what jsonargparse makes of a comment
            raise SettingError(r"data.grader.find is empty: what follows # was taken for a comment; write \# instead")
        self.find = find
        self.in_reference = in_reference
        if in_reference and not find:
            raise SettingError("data.grader.in_reference=true needs data.grader.find, which finds what to compare")
        if problem := _problem(find):
            raise SettingError(f"data.grader.find={find!r} is not a regular expression ({problem}); correct it")

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference that must be a regular expression, and is not, or in which nothing is found."""
        if self.in_reference and any(self._found(str(each)) is None for each in alternatives(reference)):
            raise DataError(f"data.grader.find={self.find!r} finds nothing in reference {reference!r}; correct it")
        if self.find:
            return
        for each in alternatives(reference):
            if not isinstance(each, str) or (problem := _problem(each)):
                reason = problem if isinstance(each, str) else f"it is {type(each).__name__}"
                raise DataError(
                    f"reference {each!r} is not a regular expression ({reason}); correct it, or give data.grader.find"
                )

    def grade(self, response: str, reference: Any) -> bool:
        """Whether what is found is a reference, or whether a reference is found."""
        if not self.find:
            return any_right(lambda each: re.search(each, response) is not None, reference)
        found = self._found(response)
        if found is None:
            return False
        return any_right(lambda each: same(found, self._found(str(each)) if self.in_reference else each), reference)

    def _found(self, text: str) -> str | None:
        matches = list(re.finditer(self.find, text))
        if not matches:
            return None
        return next((group for group in matches[-1].groups() if group is not None), matches[-1][0])


def _problem(expression: str) -> str | None:
    """Why a text is not a regular expression, or ``None``."""
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return None
