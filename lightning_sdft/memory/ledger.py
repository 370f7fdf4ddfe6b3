"""Which tensors there are at a time, and how many bytes they take."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

__all__ = ["Ledger", "Usage"]


class Usage:
    """Bytes of what a stretch of code makes.

    Args:
        before: Bytes that were there before.
    """

    def __init__(self, before: int = 0) -> None:
        self.before = before
        self.peak = 0
        """The most that there was at a time, beyond what was there before."""
        self.kept = 0
        """What is left of it afterwards; negative where more went than came."""


class Ledger(TorchDispatchMode):
    """Counts the bytes of tensors, from the operation that makes them until nothing refers to their storage.

    What an operation takes while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes of the tensors that were made and are still there."""
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its results."""
        return tree_map_only(Tensor, self.counted, func(*args, **(kwargs or {})))

    @contextmanager
    def measured(self) -> Iterator[Usage]:
        """Find out what the code inside takes."""
        usage, outer = Usage(self.now), self.peak
        self.peak = self.now
        yield usage
        usage.peak, usage.kept = self.peak - usage.before, self.now - usage.before
        self.peak = max(self.peak, outer)

    def ignore(self, tensors: Iterator[Tensor]) -> None:
        """Take tensors for known, so that views of them do not count as new."""
        for tensor in tensors:
            self._sizes.setdefault(tensor.untyped_storage()._cdata, 0)

    def counted(self, tensor: Tensor) -> Tensor:
        """A tensor, whose bytes count from now on."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)
        return tensor

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
