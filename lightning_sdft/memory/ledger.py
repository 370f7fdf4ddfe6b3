"""Counts the bytes of all tensors that exist at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Ledger", "Usage"]


@dataclass
class Usage:
    """Bytes that a stretch of code allocates.

    Args:
        before: Bytes allocated before it.
        peak: The largest number of bytes at any time beyond those.
        kept: Bytes still allocated afterwards beyond those; negative if the code freed more than it allocated.
    """

    before: int
    peak: int = 0
    kept: int = 0


class Ledger:
    """Adds up the bytes of tensors, each from when it is entered until its storage is freed.

    torch keeps the Python object of a storage as long as the storage, so that its id is the storage's.
    """

    def __init__(self) -> None:
        self.now = 0
        """Bytes of all entered tensors that still exist."""
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
        """Measure what the code inside the ``with`` block allocates."""
        usage, outer = Usage(self.now), self._peak
        self._peak = self.now
        yield usage
        usage.peak, usage.kept = self._peak - usage.before, self.now - usage.before
        self._peak = max(self._peak, outer)

    def _leave(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
