"""Reading the prompt and the demonstration of a row by the layout of its table."""

from __future__ import annotations

from collections.abc import Collection

from lightning_sdft.data.conversations import conversation, split_response, up_to_last_user_turn
from lightning_sdft.data.images import with_text
from lightning_sdft.data.json_files import Row
from lightning_sdft.data.layouts import Layout
from lightning_sdft.data.tables import take
from lightning_sdft.errors import DataError
from lightning_sdft.records import Message

__all__ = ["read_as"]


def read_as(
    layout: Layout, row: Row, where: str, needed: bool, others: Collection[str] = (), images: bool = False
) -> tuple[list[Message], str | None]:
    """The prompt and the demonstration of a row; if the layout has none, what follows the last user turn is dropped.

    Args:
        layout: The layout.
        row: The row.
        where: File and row, for error messages.
        needed: Whether there must be a demonstration, if the layout has one.
        others: Columns that are read for something else.
        images: Whether the prompt may have images.

    Raises:
        DataError: If the row differs from the layout.
    """
    prompt, demonstration = conversation(row, layout.prompt, where, others, images), None
    if layout.is_conversation:
        if needed or (prompt and prompt[-1]["role"] == "assistant"):
            prompt, demonstration = split_response(prompt, where)
    elif layout.demonstration is None:
        prompt = up_to_last_user_turn(prompt, where)
    else:
        demonstration = _response(row, layout.demonstration, where, needed)
    if demonstration is not None and not demonstration.strip():
        raise DataError(f"{where}: column {layout.demonstration!r} is empty; leave the row out")
    if prompt and layout.input is not None and (text := _optional(row, layout.input, where)):
        *before, last = prompt
        prompt = [*before, {**last, "content": with_text(last["content"], f"\n\n{text}")}]
    if layout.system is not None and (text := _optional(row, layout.system, where)):
        if prompt and prompt[0]["role"] == "system":
            raise DataError(f"{where}: the conversation has a system turn, and so has column {layout.system!r}")
        prompt = [Message(role="system", content=text), *prompt]
    return prompt, demonstration


def _response(row: Row, column: str, where: str, needed: bool) -> str | None:
    """A text, or the only turn of a conversation."""
    if not needed and row.get(column) is None:
        return None
    if not isinstance(row.get(column), list):
        return take(row, column, str, where)
    where = f"{where}, column {column!r}"
    turns = conversation(row, column, where, others=row)
    before, response = split_response(turns, where)
    if before:
        raise DataError(f"{where}: {len(turns)} turns instead of one; put the others into the prompt")
    return response


def _optional(row: Row, column: str, where: str) -> str:
    return "" if row.get(column) is None else take(row, column, str, where).strip()
