"""Hears of signals at once: Python runs handlers between two of its own instructions, and a backward pass has none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["SignalEar"]

NONE = -1
"""The descriptor that stands for none."""

CLOSED = 0
"""What is written to end the thread; no signal has this number."""


class SignalEar:
    """Calls a function in a thread of its own as soon as a signal arrives that has a handler.

    The C part of Python's handler writes the number of each signal to a pipe, whatever the main thread computes.

    Args:
        heard: Takes the number of the signal. It must not touch what the main thread computes with.
    """

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard
        self._reads = self._writes = NONE

    def open(self) -> None:
        """Begin to listen, unless this is not the main thread, or somebody else listens, such as an event loop."""
        if self._writes != NONE or threading.current_thread() is not threading.main_thread():
            return
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        if before != NONE:
            signal.set_wakeup_fd(before)
            self._forget()
            return
        _ears.add(self)
        threading.Thread(target=self._listen, args=(self._reads,), name="signals", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        if self._writes == NONE or threading.current_thread() is not threading.main_thread():
            return
        signal.set_wakeup_fd(NONE)
        _ears.discard(self)
        os.write(self._writes, bytes([CLOSED]))
        os.close(self._writes)
        self._reads = self._writes = NONE  # the thread closes its own end

    def _listen(self, reads: int) -> None:
        while True:
            for signum in os.read(reads, 64) or bytes([CLOSED]):
                if signum == CLOSED:
                    os.close(reads)
                    return
                self._heard(signum)

    def _forget(self) -> None:
        for descriptor in (self._reads, self._writes):
            with suppress(OSError):
                os.close(descriptor)
        self._reads = self._writes = NONE


_ears: set[SignalEar] = set()


def _deafen() -> None:
    """A forked process, such as a worker of a loader, must not tell the run of its own signals."""
    if _ears:
        signal.set_wakeup_fd(NONE)
        _ears.clear()


os.register_at_fork(after_in_child=_deafen)
