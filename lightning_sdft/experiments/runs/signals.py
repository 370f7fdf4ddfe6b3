"""Signals to a command that performs runs: its runs save and end first."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightning_sdft.checkpoint.preemption import say

__all__ = ["ending_runs_first", "is_ending"]

_ending = threading.Event()


def is_ending() -> bool:
    """Whether a signal has asked this process to end, so that it should start no more runs."""
    return _ending.is_set()


@contextmanager
def ending_runs_first() -> Iterator[None]:
    """Inside this context, SIGTERM and SIGHUP are passed on to the runs, which save and end, before this process ends.

    Without it the runs would go on by themselves, and the next command would wait for them. It does nothing in another
    thread than the main one, which alone gets signals.

    Raises:
        SystemExit: In the main thread, with the exit code that a shell expects.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in signals:
        signal.signal(each, _end)
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        if signals:
            _ending.clear()


def _end(signum: int, _: FrameType | None) -> None:
    first = not _ending.is_set()
    _ending.set()
    for process in multiprocessing.active_children():
        process.terminate()
    if first:
        say(
            signum,
            "the runs finish their optimizer steps, save and end; the same command goes on from there. Another SIGTERM "
            "ends them at once",
        )
        raise SystemExit(128 + signum)
