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

    Raises:
        SettingError: If it is not a regular expression, or was taken for a comment.

    Example:
        >>> Pattern(r"#### (.+)").grade("6 * 7 = 42\n#### 42", 42), Pattern().grade("in the year 1848.", r"\b18\d\d\b")
        (True, True)
    """

    def __init__(self, find: str = "") -> None:
        super().__init__()
        if str(find) == "None":  # what jsonargparse makes of a comment
            raise SettingError(r"data.grader.find is empty: what follows # was taken for a comment; write \# instead")
        self.find = find
        if problem := _problem(find):
            raise SettingError(f"data.grader.find={find!r} is not a regular expression ({problem}); correct it")

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference that must be a regular expression, and is not."""
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
        matches = list(re.finditer(self.find, response))
        if not matches:
            return False
        last = matches[-1]
        found = next((group for group in last.groups() if group is not None), last[0])
        return any_right(lambda each: same(found, each), reference)


def _problem(expression: str) -> str | None:
    """Why a text is not a regular expression, or ``None``."""
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return None
