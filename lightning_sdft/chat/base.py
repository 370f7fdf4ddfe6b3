"""The interface of all chat models: they reply to conversations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from lightning_sdft.errors import ChatError
from lightning_sdft.records import Message

__all__ = ["ChatModel"]


class ChatModel(ABC):
    """A model that replies to conversations with text.

    Attributes:
        name: Name under which caches and journals store the replies: the model name of an endpoint, or the folder of a
            local model.
    """

    name: str

    @property
    @abstractmethod
    def always_same(self) -> bool:
        """Whether the same conversation always gets the same reply, as at temperature 0."""

    def check_varied(self, what: str, setting: str) -> None:
        """Refuse to ask for several replies to the same conversation if they would all be equal.

        Args:
            what: What is asked for, for the error message.
            setting: The setting that asks for several replies.

        Raises:
            ChatError: If the replies would be equal.
        """
        if self.always_same:
            raise ChatError(f"at temperature 0 {what} are all the same; set chat.temperature to 1, or {setting} to 1")

    @abstractmethod
    def reply(
        self, conversations: Sequence[Sequence[Message]], on_reply: Callable[[int, str], None] | None = None
    ) -> list[str | None]:
        """Reply to conversations, each of which ends in a user turn.

        Args:
            conversations: The conversations; the model is asked separately for each, even if some are equal.
            on_reply: Called in the calling thread with the index of the conversation, from 0, and the reply, as soon as
                it arrives, so that it can be stored before the others arrive.

        Returns:
            The replies in the order of the conversations; ``None`` for a conversation without reply after all retries.

        Raises:
            ChatError: If the model cannot be used at all. Earlier replies have then been passed to ``on_reply``.
        """
