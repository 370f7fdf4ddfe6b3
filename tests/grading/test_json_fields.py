from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.grading import JsonFields
from lightning_sdft.grading.json_fields import last_object

WANTED = {"city": "Oslo", "year": 1952, "tags": ["a", {"b": None}]}
FENCED = '```json\n{"tags": ["a", {"b": null}], "year": 1952.0, "city": "Oslo"}\n```'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('First {"a": 1}, then {"a": {"b": "}"}} - done', {"a": {"b": "}"}}),
        ('{{"a": 1}}', {"a": 1}),
        ("{a: 1}", None),
        ("[1, 2]", None),
        ("", None),
        ("{" * 100_000, None),
        ('{"a": ' * 5_000, None),
    ],
)
def test_the_last_object_counts(text: str, found: Any) -> None:
    assert last_object(text) == found


@pytest.mark.parametrize(
    ("response", "reference", "settings", "right"),
    [
        (FENCED, WANTED, {}, True),
        (FENCED, '{"city": "Oslo"}', {}, True),
        (FENCED, '{"city": "Oslo"}', {"only": True}, False),
        (FENCED, WANTED, {"only": True}, True),
        (FENCED, {**WANTED, "year": 1953}, {}, False),
        (FENCED, {**WANTED, "year": 1953}, {"fields": ["city"]}, True),
        (FENCED, {**WANTED, "year": "1952"}, {}, False),
        (FENCED, {**WANTED, "land": "Norway"}, {}, False),
        (FENCED, [{"city": "Paris"}, {"city": "Oslo"}], {}, True),
        ("Oslo", WANTED, {}, False),
        ('{"city": "cafe\u0301"}', {"city": "caf\u00e9"}, {}, True),
    ],
)
def test_fields_must_agree(response: str, reference: Any, settings: dict[str, Any], right: bool) -> None:
    assert JsonFields(**settings).grade(response, reference) is right


@pytest.mark.parametrize("reference", ["Oslo", 7, None, [WANTED, "Oslo"]])
def test_a_reference_that_is_no_object_is_refused(reference: Any) -> None:
    with pytest.raises(DataError, match="a reference must be a JSON object, not"):
        JsonFields().check_reference(reference)


def test_a_reference_without_a_field_is_refused() -> None:
    with pytest.raises(DataError, match=r"has no field 'land', which data\.grader.fields compares"):
        JsonFields(["city", "land"]).check_reference(WANTED)
    JsonFields(["city"]).check_reference('{"city": "Oslo"}')
