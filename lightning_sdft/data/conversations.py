"""Reading conversations: lists of messages with ``role`` and ``content``, or with ShareGPT's ``from`` and ``value``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from lightning_sdft.data.images import content_parts
from lightning_sdft.data.json_files import Row
from lightning_sdft.data.tables import take
from lightning_sdft.errors import DataError
from lightning_sdft.records import Message

__all__ = ["conversation", "ends_with_response", "split_response", "up_to_last_user_turn"]

FOR_TEMPLATES = ("tools", "documents", "chat_template_kwargs")
"""Columns of conversational data sets that are meant for the chat template."""

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
"""Roles of the speakers that ShareGPT's ``from`` names."""


def conversation(
    row: Row, column: str, where: str, others: Collection[str] = (), images: bool = False
) -> list[Message]:
    """Read the conversation in a column: a list of messages, or a text, which becomes a single user turn.

    Further fields of a message, such as ``tool_calls``, are kept for the model's chat template.

    Args:
        row: The row.
        column: The column.
        where: File and row, for error messages.
        others: Columns that are read for something else.
        images: Whether the content of a message may be a list of parts, among them images.

    Raises:
        DataError: If the value is neither; the error names the turn. Also if another column is meant for the chat
            template, which would not be given it.
    """
    for name in FOR_TEMPLATES:
        if row.get(name) and name != column and name not in others:
            raise DataError(
                f"{where}: column {name!r} is for the chat template, which is not given it, so the model would not see "
                "it; write it into the prompt's system turn, or leave the column out"
            )
    value = take(row, column, object, where)
    if isinstance(value, str):
        return [Message(role="user", content=value)]
    turns = enumerate(take(row, column, list, where), start=1)
    return [_message(turn, f"{where}, turn {index}", images) for index, turn in turns]


def split_response(messages: Sequence[Message], where: str) -> tuple[list[Message], str]:
    """Split a conversation into what comes before the last turn, and the response in the last turn.

    Raises:
        DataError: If the last turn is not the assistant's, or says more than text.
    """
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant":
        found = "there is no turn" if last is None else f"the last turn is that of {last['role']!r}"
        raise DataError(
            f"{where}: {found}, but a demonstration must be the last turn of 'assistant'; add it, or leave the row out"
        )
    fields = [name for name in last if name not in Message.__annotations__]
    if fields:
        raise DataError(
            f"{where}, turn {len(messages)}: a demonstration is text, but the turn has the field {fields[0]!r} too; "
            "write it into the content, or leave it out"
        )
    if not isinstance(last["content"], str):
        raise DataError(
            f"{where}, turn {len(messages)}: a demonstration is text, but the turn has an image; leave the row out"
        )
    return list(messages[:-1]), last["content"]


def up_to_last_user_turn(messages: Sequence[Message], where: str) -> list[Message]:
    """The conversation without what follows the last user turn.

    Raises:
        DataError: If there is no user turn.
    """
    last = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
    if last is None:
        raise DataError(f"{where}: no user turn; add one, or leave the row out")
    return list(messages[: last + 1])


def ends_with_response(rows: Sequence[Row], column: str) -> bool:
    """Whether most rows have a conversation in a column, and most of those end with the assistant's turn."""
    lasts = [value[-1] for row in rows if isinstance(value := row.get(column), list) and value]
    answered = [turn for turn in lasts if isinstance(turn, dict) and _role(turn) == "assistant"]
    return 2 * len(lasts) >= len(rows) and 2 * len(answered) > len(lasts)


def _role(turn: dict[str, Any]) -> object:
    return turn.get("role") or SPEAKERS.get(str(turn.get("from")))


def _message(turn: object, where: str, images: bool) -> Message:
    """A message with all its fields; those that are null or empty say nothing."""
    if not isinstance(turn, dict):
        raise DataError(f"{where}: {type(turn).__name__} instead of a message with role and content; correct the row")
    if "role" not in turn and "from" in turn:
        turn = _renamed(turn, where)
    fields = {name: value for name, value in turn.items() if name not in Message.__annotations__ and _says(value)}
    if "tool_calls" in fields and turn.get("content") is None:
        turn = {**turn, "content": ""}
    role, parts = take(turn, "role", str, where), turn.get("content") if images else None
    content = content_parts(parts, where) if isinstance(parts, list) else take(turn, "content", str, where)
    message = Message(role=role, content=content)
    return cast(Message, {**fields, **message})


def _renamed(turn: Row, where: str) -> Row:
    """A turn of ShareGPT with role and content."""
    speaker = take(turn, "from", str, where)
    if speaker not in SPEAKERS:
        raise DataError(f"{where}: nobody is known as {speaker!r}; write one of {', '.join(SPEAKERS)}")
    others = {name: value for name, value in turn.items() if name not in ("from", "value")}
    return {**others, "role": SPEAKERS[speaker], "content": take(turn, "value", str, where)}


def _says(value: object) -> bool:
    return value is not None and value != "" and value != [] and value != {}
