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


@pytest.mark.parametrize(
    ("response", "reference", "message"),
    [
        ('{"a": 1, "b": 2}', {"a": 1, "b": 2}, ""),
        ('{"a": 2, "c": 3}', {"a": 1, "b": 2}, "The field 'b' is missing. The field 'a' is wrong."),
        ('{"a": 1, "c": 3}', [{"x": 1, "y": 2}, {"a": 1, "c": 4}], "The field 'c' is wrong."),
        ("no object", {"a": 1}, "The answer has no JSON object."),
        ('{"b": 1}', {}, ""),
    ],
)
def test_feedback_names_the_fields_and_not_their_values(response: str, reference: Any, message: str) -> None:
    (found,) = JsonFields().feedback_all([response], [reference])
    assert (found.message, found.correct) == (message, not message)


def test_feedback_names_a_field_too_many() -> None:
    assert JsonFields(only=True).feedback('{"a": 1, "c": 3}', {"a": 1}) == "There should be no field 'c'."
