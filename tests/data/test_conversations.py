from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data.conversations import (
    conversation,
    ends_with_response,
    split_response,
    up_to_last_user_turn,
)
from lightning_sdft.errors import DataError


def turn(role: str, content: str = "x", **fields: Any) -> Any:
    return {"role": role, "content": content, **fields}


def test_both_ways_of_writing_turns_are_read_as_the_same() -> None:
    shared = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "b", "weight": None},
    ]
    turns = [turn("system", "s"), turn("user", "a"), turn("assistant", "b")]
    assert conversation({"conversations": shared}, "conversations", "here") == turns
    assert conversation({"messages": turns}, "messages", "here") == turns
    assert conversation({"prompt": "a"}, "prompt", "here") == [turn("user", "a")]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([{"from": "narrator", "value": "x"}], "turn 1: nobody is known as 'narrator'; write one of human, user, gpt"),
        ([{"from": "human"}], "turn 1: no column 'value'"),
        ([{"from": 7, "value": "x"}], r"turn 1: column 'from' holds int \(7\), not str"),
        ([{"from": "human", "value": ["x"]}], "turn 1: column 'value' holds list"),
        ([{"says": "x"}], "turn 1: no column 'role'"),
        (["x"], "turn 1: str instead of a message"),
        (7, r"column 'turns' holds int \(7\), not list"),
    ],
)
def test_a_turn_that_cannot_be_read_is_named(turns: Any, problem: str) -> None:
    with pytest.raises(DataError, match=f"^rows.jsonl, row 3(,|:) {problem}"):
        conversation({"turns": turns}, "turns", "rows.jsonl, row 3")


def test_the_last_turn_is_the_response() -> None:
    turns = [turn("system"), turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    assert split_response(turns, "here") == (turns[:4], "d")


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([], "here: there is no turn, but a demonstration must be the last turn of 'assistant'"),
        ([turn("assistant"), turn("user")], "here: the last turn is that of 'user', but"),
        ([turn("user"), turn("assistant", tool_calls=[1])], "here, turn 2: .* has the field 'tool_calls' too"),
    ],
)
def test_a_conversation_without_a_response_is_refused(turns: list[Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        split_response(turns, "here")


def test_what_follows_the_last_user_turn_is_dropped() -> None:
    turns = [turn("user"), turn("assistant"), turn("user"), turn("assistant"), turn("tool")]
    assert up_to_last_user_turn(turns, "here") == turns[:3]
    with pytest.raises(DataError, match="here: no user turn"):
        up_to_last_user_turn(turns[1:2], "here")


def test_most_rows_decide_whether_conversations_end_with_a_response() -> None:
    answered, asked = {"c": [turn("user"), turn("assistant")]}, {"c": [turn("user")]}
    assert ends_with_response([answered, answered, asked, {}], "c")
    assert ends_with_response([{"c": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "x"}]}], "c")
    assert not ends_with_response([answered, asked, asked], "c")
    assert not ends_with_response([answered, {}, {}], "c")
    assert not ends_with_response([{"c": "text"}, {"c": [7]}], "c")
