"""How long each phase of a training step takes, and how much memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["PhaseClock", "now", "peak_memory", "resident_memory"]


class PhaseClock:
    """Adds up the wall-clock seconds of named phases until they are read; ``listener`` is called at each start."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.listener: Callable[[str], None] | None = None
        self._started: dict[str, float] = {}

    def start(self, phase: str) -> None:
        """Begin a phase."""
        self._started[phase] = now()
        if self.listener is not None:
            self.listener(phase)

    def stop(self, phase: str) -> None:
        """End a phase."""
        self.seconds[phase] += now() - self._started.pop(phase)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the code inside the ``with`` block."""
        self.start(name)
        try:
            yield
        finally:
            self.stop(name)

    @contextmanager
    def quietly(self, name: str) -> Iterator[None]:
        """Time the code inside the ``with`` block, of which the listener does not hear."""
        began = now()
        yield
        self.seconds[name] += now() - began

    def read(self) -> dict[str, float]:
        """The seconds of each phase since the last call."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds


def peak_memory() -> float:
    """Peak memory so far in MiB: of the accelerator if there is one, otherwise of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return _peak_of_process()


def resident_memory() -> float:
    """Present memory of the process in MiB; its peak so far if the system does not report the present memory."""
    status = Path("/proc/self/statm")
    return (
        int(status.read_text().split()[1]) * resource.getpagesize() / 2**20 if status.exists() else _peak_of_process()
    )


def _peak_of_process() -> float:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 2**20 if sys.platform == "darwin" else kilobytes / 2**10


def now() -> float:
    """Seconds of a clock, once the accelerator has done what it was told."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()  # kernels run asynchronously: their time would count for a later phase
    return time.perf_counter()
