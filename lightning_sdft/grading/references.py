"""What graders that compare text make of references: the one rule for all of them.

A list of references holds alternatives: a response is right if it is right for any of them. What a reference is
compared by depends on its type:

* Text is compared with text after Unicode's canonical composition (NFC), by which "é" is the same text whether it is
  written as one character or as "e" and an accent. Signs that only look alike or mean alike (a non-breaking space, a
  full-width letter, a superscript) remain different.
* A number (integer, float, decimal) is compared by value: ``42``, ``42.0`` and ``4.2e1`` are right for ``42.0``.
* ``True`` and ``False`` are compared with the words, in upper or lower case.
* A date or a time is compared with what the response means in ISO 8601.
* An object is compared with the object that the response is as JSON.
* ``None`` is no reference: no response is right for it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from lightning_sdft.storage.json_text import json_value

__all__ = [
    "NUMBER",
    "alternatives",
    "any_right",
    "as_number",
    "canonical",
    "composed",
    "same",
    "same_number",
    "text_of",
]

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
"""A number in plain digits, without separators of thousands."""


def alternatives(reference: Any) -> list[Any]:
    """The references in a list, or the one that is given; ``None`` is left out.

    Example:
        >>> alternatives(["Paris", ["Lutetia", None]])
        ['Paris', 'Lutetia']
    """
    if hasattr(reference, "tolist"):  # arrays and numbers of NumPy and torch
        reference = reference.tolist()
    if isinstance(reference, list | tuple | set | frozenset):
        return [each for part in reference for each in alternatives(part)]
    return [] if reference is None else [reference]


def any_right(is_right: Callable[[Any], bool], reference: Any) -> bool:
    """Whether a response is right for any alternative."""
    return any(map(is_right, alternatives(reference)))


def composed(text: str) -> str:
    """The text in Unicode's canonical composition (NFC)."""
    return unicodedata.normalize("NFC", text)


def text_of(value: Any) -> str:
    """A reference as a person would write it: numbers without a fraction as integers, all else as in JSON.

    Example:
        >>> text_of(42.0), text_of(True), text_of(date(2024, 5, 1))
        ('42', 'true', '2024-05-01')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    plain = json_value(value)
    return composed(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))


def as_number(value: Any) -> Decimal | None:
    """The exact value of a number; ``None`` for anything else, and for ``True`` and ``False``."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)


def same(response: str, value: Any) -> bool:
    r"""Whether a whole response, without white space around it, is a reference; see the module's description.

    Example:
        >>> same(" 42\n", 42.0), same("42.0", "42"), same("2024-05-01", date(2024, 5, 1)), same("1", True)
        (True, False, True, False)
    """
    response = response.strip()
    number = as_number(value)
    if number is not None:
        return same_number(response, number)
    if isinstance(value, bool):
        return response.lower() == str(value).lower()
    if isinstance(value, Mapping):
        return _same_object(response, value)
    for kind in (datetime, date, time):
        if isinstance(value, kind):
            with suppress(ValueError):
                return bool(kind.fromisoformat(response) == value)
            return False
    return composed(response) == text_of(value).strip()


def same_number(text: str, number: Decimal) -> bool:
    """Whether a text is a number of this value."""
    return NUMBER.fullmatch(text) is not None and Decimal(text) == number


def _same_object(response: str, value: Mapping[Any, Any]) -> bool:
    with suppress(ValueError, RecursionError):
        return canonical(json.loads(response)) == canonical(json_value(value))
    return False


def canonical(value: Any) -> str:
    """A JSON value as a text that is the same for equal values: ``1`` and ``1.0``, fields in any order."""
    return composed(json.dumps(_plain_numbers(value), sort_keys=True, ensure_ascii=False))


def _plain_numbers(value: Any) -> Any:
    """A JSON value in which numbers without a fraction are integers, so that equal values give equal texts."""
    if isinstance(value, dict):
        return {name: _plain_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
