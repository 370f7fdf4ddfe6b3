"""Grades answers that hold a JSON object, by its fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import alternatives, any_right, canonical
from lightning_sdft.storage.json_text import json_value

__all__ = ["JsonFields", "last_object"]


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object in a text, which may stand between other words; ``None`` if there is none.

    Example:
        >>> last_object('Here: {"a": {"b": 1}} - done.'), last_object("{a}")
        ({'a': {'b': 1}}, None)
    """
    decoder, found, start = json.JSONDecoder(), None, text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return found


class JsonFields(Grader):
    """Whether the JSON object in a response has the fields of the reference, with the same values.

    The reference is an object, or its JSON text; a list holds alternatives. The order of fields makes no difference,
    nor does ``1`` instead of ``1.0``; further fields in the response are allowed unless ``only``.

    Args:
        fields: The fields to compare; by default all that the reference has.
        only: Whether the response may have no further fields.

    Example:
        >>> JsonFields().grade('It is {"city": "Oslo", "year": 1952.0, "sure": true}.', {"year": 1952, "city": "Oslo"})
        True
    """

    def __init__(self, fields: Sequence[str] | None = None, only: bool = False) -> None:
        super().__init__()
        self.fields = None if fields is None else tuple(fields)
        self.only = only

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference that is no object, or lacks a field that is compared."""
        for each in alternatives(reference) or [None]:
            wanted = _object(each)
            if wanted is None:
                raise DataError(f"a reference must be a JSON object, not {each!r}")
            missing = [field for field in self.fields or () if field not in wanted]
            if missing:
                raise DataError(f"reference {each!r} has no field {missing[0]!r}, which data.grader.fields compares")

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the object in the response agrees with a reference."""
        given = last_object(response)
        return given is not None and any_right(lambda each: self._agrees(given, _object(each)), reference)

    def feedback(self, response: str, reference: Any) -> str:
        """Which fields are missing, wrong, or too many, compared with the nearest reference."""
        given = last_object(response)
        if given is None:
            return "The answer has no JSON object."
        wanted = [found for each in alternatives(reference) if (found := _object(each)) is not None]
        problems = [self._problems(given, each) for each in wanted]
        return " ".join(sorted(problems, key=len)[0])

    def _agrees(self, given: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
        return wanted is not None and not self._problems(given, wanted)

    def _problems(self, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
        fields = list(wanted if self.fields is None else self.fields)
        missing = [f"The field {field!r} is missing." for field in fields if field not in given]
        wrong = [
            f"The field {field!r} is wrong."
            for field in fields
            if field in given and canonical(given[field]) != canonical(wanted[field])
        ]
        further = [f"There should be no field {field!r}." for field in given if self.only and field not in fields]
        return missing + wrong + further


def _object(reference: Any) -> Mapping[str, Any] | None:
    if isinstance(reference, str):
        return last_object(reference)
    value = json_value(reference)
    return value if isinstance(value, Mapping) else None
