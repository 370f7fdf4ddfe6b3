"""JSON text of records, whatever values users' data have put into them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

__all__ = ["json_line", "json_value"]


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON, with the end of the line.

    It is written whatever the values are, because a record may hold an answer that took hours to generate: what JSON
    has no type for is written as :func:`json_value` says.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, default=json_value)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, circles, numbers of thousands of digits
        text = json.dumps({str(name): _or_text(value) for name, value in record.items()}, ensure_ascii=False)
    if not _is_encodable(text):  # unpaired surrogates, which can only be written escaped
        text = json.dumps(json.loads(text))
    return text + "\n"


def json_value(value: Any) -> Any:
    """A value as JSON has it.

    Decimals become numbers if no digit is lost, and else text; dates and times become text as ISO 8601 writes it;
    arrays, tensors and sets become lists; bytes become the text that they encode; anything else, its ``str``.

    Example:
        >>> json_value({"sizes": {Decimal("4.50")}, date(2024, 5, 1): b"May"})
        {'sizes': [4.5], '2024-05-01': 'May'}
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(each) for each in value]
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if hasattr(value, "tolist"):  # of NumPy and torch
        return json_value(value.tolist())
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if value.is_finite() and abs(value.adjusted()) < 300:
        if value == value.to_integral_value():
            return int(value)
        if Decimal(repr(float(value))) == value:
            return float(value)
    return str(value)


def _or_text(value: Any) -> Any:
    """A value as JSON has it, or what Python calls it if JSON cannot have it at all."""
    try:
        plain = json_value(value)
        json.dumps(plain)
    except (ValueError, RecursionError):
        try:
            return repr(value)
        except (ValueError, RecursionError):
            return f"a {type(value).__name__} that cannot be written"
    return plain


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
