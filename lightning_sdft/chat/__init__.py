"""Chat models, which judge answers, write demonstrations and write questions."""

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.chat.journal import Journal
from lightning_sdft.chat.local import LocalChat

__all__ = ["ChatModel", "Endpoint", "Journal", "LocalChat"]
