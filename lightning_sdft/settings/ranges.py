"""Ranges of numbers: declared once, in the type of an argument, and checked however the number is given.

A constructor or command whose arguments have such types calls :func:`check_ranges` first; ``--help`` shows the ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from lightning_sdft.errors import SettingError

__all__ = [
    "Count",
    "Fraction",
    "LossTemperature",
    "Natural",
    "NonNegative",
    "Positive",
    "PositiveShare",
    "Range",
    "Seed",
    "Share",
    "Temperature",
    "check_ranges",
    "ranges",
]


@dataclass(frozen=True)
class Range:
    """The finite numbers that a setting may have.

    Args:
        low: The lowest.
        high: The highest.
        open_low: Whether ``low`` itself is excluded.
        open_high: Whether ``high`` itself is excluded.
        or_zero: Whether 0 is allowed too.
        hint: What to do instead of setting another number, for the message.

    Example:
        >>> print(Range(1), Range(0, 1, open_low=True), Range(0.5, 2, or_zero=True), sep="; ")
        >= 1; within (0, 1]; 0 or within [0.5, 2]
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    or_zero: bool = False
    hint: str = ""

    def __contains__(self, value: Any) -> bool:
        if self.or_zero and value == 0:
            return True
        if not math.isfinite(value) or value < self.low or value > self.high:
            return False
        return not (self.open_low and value == self.low) and not (self.open_high and value == self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            text = f"{'>' if self.open_low else '>='} {self.low:g}"
        else:
            opening, closing = "(" if self.open_low else "[", ")" if self.open_high else "]"
            text = f"within {opening}{self.low:g}, {self.high:.10g}{closing}"
        return f"0 or {text}" if self.or_zero else text


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open_low=True)]
Fraction = Annotated[float, Range(0, 1, open_high=True)]
Temperature = Annotated[float, Range(0.001, 100, or_zero=True)]
LossTemperature = Annotated[float, Range(0.001, 100)]
"""The types of most settings. Logits divided by a temperature below 0.001 overflow in half precision."""


@dataclass(frozen=True)
class _Allowed:
    """What a setting may be."""

    numbers: Range
    whole: bool
    none: bool
    many: bool

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, or ``None``."""
        if value is None and self.none:
            return None
        kind: Any = Integral if self.whole else Real
        values: list[Any] = [value]
        if self.many and isinstance(value, Collection):
            values = list(value.values() if isinstance(value, Mapping) else value)
        if all(isinstance(each, kind) and not isinstance(each, bool) and each in self.numbers for each in values):
            return None
        noun = f"{'whole ' if self.whole else ''}number"
        noun = f"{noun}s" if self.many else f"a {noun}"
        return f"must be {noun}{',' if self.numbers.or_zero else ''} {self.numbers}"


def ranges(owner: Callable[..., Any]) -> dict[str, Range]:
    """The ranges of the arguments of a class or function that have one, by name."""
    return {name: allowed.numbers for name, allowed in _declared(owner).items()}


def check_ranges(owner: Callable[..., Any], values: Mapping[str, object], name: str | None = None) -> None:
    """Refuse numbers out of the ranges of their arguments.

    Args:
        owner: The class whose constructor was called, or the function.
        values: The values by name, such as ``locals()``; others than arguments are ignored.
        name: What the message calls the owner, if not by its name.

    Raises:
        SettingError: If a number is out of range, not finite, or none; the message names the setting and the range.
    """
    for setting, allowed in _declared(owner).items():
        problem = allowed.problem(values[setting])
        if problem is not None:
            hint = f"; {allowed.numbers.hint}" if allowed.numbers.hint else ""
            raise SettingError(f"{name or owner.__name__}: {setting}={values[setting]!r} {problem}{hint}")


@lru_cache
def _declared(owner: Callable[..., Any]) -> dict[str, _Allowed]:
    """What the arguments that have a range may be."""
    function = owner.__init__ if isinstance(owner, type) else owner  # type: ignore[misc]
    hints = get_type_hints(function, include_extras=True)
    return {name: found for name, hint in hints.items() if (found := _allowed(hint)) is not None}


def _allowed(hint: Any) -> _Allowed | None:
    """What a type allows, if it has a range: such as ``Count``, ``Count | None`` or ``list[Seed]``."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for member in members:
        inner = [member] if hasattr(member, "__metadata__") else get_args(member)
        for each in inner:
            for mark in getattr(each, "__metadata__", ()):
                if isinstance(mark, Range):
                    return _Allowed(mark, each.__origin__ is int, NoneType in members, each is not member)
    return None
