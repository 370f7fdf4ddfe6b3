"""The record that every data module yields: one prompt, what an expert answered, what the grader compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

__all__ = ["DataError", "Example", "Message"]


class DataError(ValueError):
    """Data that cannot be trained or graded on; the message names file, row or example, and the way out."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One prompt and what is known about good answers to it.

    Args:
        id: Name that stays the same across epochs and runs; unique within a data set.
        prompt: Chat messages, the last of them a user turn.
        demonstration: An expert's response to this very prompt, or ``None``.
        context: Further text that only the teacher may see, such as the article a question is about.
        reference: What the grader compares a response with; any JSON value.

    Raises:
        DataError: If the prompt is empty or does not end in a user turn.
    """

    id: str
    prompt: list[Message]
    demonstration: str | None = None
    context: str | None = None
    reference: Any = None

    def to(self, device: object, **kwargs: object) -> Example:
        """Stay: an example holds text, no tensors. Lightning asks every batch to move."""
        return self

    def __post_init__(self) -> None:
        if not self.prompt:
            raise DataError(f"example {self.id!r}: the prompt has no messages; give at least one user turn")
        last = self.prompt[-1]
        if last["role"] != "user":
            raise DataError(
                f"example {self.id!r}: the conversation ends in a {last['role']!r} turn; it must end in a user turn, "
                "for the response is what the model is to write (a given response belongs in the demonstration)"
            )
        if not last["content"].strip():
            raise DataError(f"example {self.id!r}: the prompt is empty")
