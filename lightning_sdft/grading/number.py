"""Grades answers that end in a number."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import alternatives, any_right, as_number
from lightning_sdft.settings import NonNegative, check_ranges

__all__ = ["Number", "last_number"]

NUMBER = re.compile(
    r"(?<![\w.])[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3}(?!\w))?"
    r"|(?<![\w.])[+-]?\.[0-9]+"
)
"""A number, with or without separators of thousands; a unit may follow without a space."""


def last_number(text: str) -> Decimal | None:
    """The last number in a text, or ``None``.

    Example:
        >>> last_number("First 12, then 1,234.50$."), last_number("no number in sight")
        (Decimal('1234.50'), None)
    """
    found = NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\u2212", "-"))  # the minus sign
    return Decimal(found[-1].replace(",", "")) if found else None


class Number(Grader):
    """Whether the last number in a response is that of the reference, within a tolerance.

    The reference is a number, or a text whose last number counts (``"#### 72"``), or a list of alternatives.

    Args:
        tolerance: Largest difference that is right.
        relative: The same as a share of the reference. The larger of both counts.

    Example:
        >>> Number().grade("3 + 4 = 7, so it costs 7.00 euros.", "7"), Number(relative=0.01).grade("99.5", 100)
        (True, True)
    """

    def __init__(self, tolerance: NonNegative = 0.0, relative: NonNegative = 0.0) -> None:
        check_ranges(Number, locals())
        super().__init__()
        self.tolerance = tolerance
        self.relative = relative

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference without a number."""
        if not alternatives(reference) or any(_number(each) is None for each in alternatives(reference)):
            raise DataError(f"a reference with a number is needed, not {reference!r}")

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the last number is near enough to that of a reference."""
        answer = last_number(response)
        return answer is not None and any_right(lambda each: self._is_near(answer, _number(each)), reference)

    def feedback(self, response: str, reference: Any) -> str:
        """Which number was taken for the answer."""
        answer = last_number(response)
        return "The answer has no number." if answer is None else f"The answer's last number, {answer}, is wrong."

    def _is_near(self, answer: Decimal, number: Decimal | None) -> bool:
        if number is None or not number.is_finite():
            return False
        allowed = max(Decimal(str(self.tolerance)), Decimal(str(self.relative)) * abs(number))
        return abs(answer - number) <= allowed


def _number(reference: Any) -> Decimal | None:
    return last_number(reference) if isinstance(reference, str) else as_number(reference)
