"""How many bytes the tensors take that there are at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Ledger", "Usage"]


@dataclass
class Usage:
    """Bytes of what a stretch of code makes.

    Args:
        before: What was there before.
        peak: The most that there was at a time beyond that.
        kept: What is left of it afterwards; negative where more went than came.
    """

    before: int
    peak: int = 0
    kept: int = 0


class Ledger:
    """Adds up the bytes of tensors, each from when it is entered until nothing refers to its storage.

    torch keeps the Python object of a storage as long as the storage, so that its id is the storage's.
    """

    def __init__(self) -> None:
        self.now = 0
        """Bytes of all tensors that were entered and are still there."""
        self._peak = 0
        self._sizes: dict[int, int] = {}

    def enter(self, tensor: Tensor) -> Tensor:
        """Count a tensor, unless its storage is counted already; returns the tensor."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self._peak = max(self._peak, self.now)
            weakref.finalize(storage, self._leave, key)
        return tensor

    @contextmanager
    def measured(self) -> Iterator[Usage]:
        """Find out what the code inside takes."""
        usage, outer = Usage(self.now), self._peak
        self._peak = self.now
        yield usage
        usage.peak, usage.kept = self._peak - usage.before, self.now - usage.before
        self._peak = max(self._peak, outer)

    def _leave(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
