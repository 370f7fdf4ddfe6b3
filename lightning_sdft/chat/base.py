"""What all chat models share: they reply to conversations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lightning_sdft.errors import ChatError

if TYPE_CHECKING:  # importing it would import data modules, and they import what asks chat models
    from lightning_sdft.records import Message

__all__ = ["ChatModel"]


class ChatModel(ABC):
    """A model that is asked and replies with text.

    Attributes:
        name: Whose replies these are, for caches and journals: the model name of an endpoint, or the folder of a local
            model.
    """

    name: str

    @property
    @abstractmethod
    def always_same(self) -> bool:
        """Whether the same conversation always gets the same reply, as at temperature 0."""

    def check_varied(self, what: str, setting: str) -> None:
        """Refuse to ask the same several times if the replies are the same.

        Args:
            what: What is asked for, for the error.
            setting: The setting that asks for several.

        Raises:
            ChatError: If the replies are the same.
        """
        if self.always_same:
            raise ChatError(f"at temperature 0 {what} are all the same; set chat.temperature to 1, or {setting} to 1")

    @abstractmethod
    def reply(
        self, conversations: Sequence[Sequence[Message]], on_reply: Callable[[int, str], None] | None = None
    ) -> list[str | None]:
        """Reply to conversations, each of which ends in a user turn.

        Args:
            conversations: The conversations; equal ones are asked each for itself.
            on_reply: Called by the calling thread with the number of the conversation, from 0, and the reply, as soon
                as it is there, so that it can be kept before the others arrive.

        Returns:
            The replies in the order of the conversations; ``None`` where none came after all retries.

        Raises:
            ChatError: If the model cannot be used at all. Replies that came before were passed to ``on_reply``.
        """
