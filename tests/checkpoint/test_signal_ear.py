from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from lightning_sdft.checkpoint.signal_ear import SignalEar

SECONDS = 20


@contextmanager
def handled(order: list[str]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: order.append("handler"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def compute_until(descriptor: int) -> bool:
    """Whether something came to a descriptor, meanwhile without a single instruction of Python in this thread."""
    waits = PollFd(descriptor, select.POLLIN, 0)
    return bool(ctypes.CDLL(None).poll(ctypes.byref(waits), 1, SECONDS * 1000) == 1)


def test_a_signal_is_heard_while_the_main_thread_computes() -> None:
    order: list[str] = []
    reads, writes = os.pipe()

    def heard(signum: int) -> None:
        order.append(signal.Signals(signum).name)
        os.write(writes, b"!")

    ear = SignalEar(heard)
    ear.open()
    sender = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    with handled(order):
        sender.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # another thread gets it, so that poll is not left
        try:
            assert compute_until(reads)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            ear.close()
            sender.join()
    assert order == ["SIGTERM", "handler"]


def pipes() -> set[str]:
    """The pipes that this process has open; what else is open may be closed by others meanwhile."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the list itself
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {each for each in found if each.startswith("pipe:")}


def test_nothing_is_left_behind() -> None:
    before = pipes()
    for _ in range(3):
        ear = SignalEar(print)
        ear.open()
        ear.open()
        ear.close()
        ear.close()
    assert signal.set_wakeup_fd(-1) == -1
    until = time.monotonic() + SECONDS
    while any(each.name == "signals" for each in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert pipes() <= before


def test_somebody_else_who_listens_is_left_in_peace() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes)
    try:
        ear = SignalEar(print)
        ear.open()
        ear.close()
    finally:
        assert signal.set_wakeup_fd(-1) == writes
        os.close(reads)
        os.close(writes)


def test_signals_of_a_forked_process_are_its_own() -> None:
    order: list[str] = []
    ear = SignalEar(lambda signum: order.append(str(signum)))
    ear.open()
    with handled(order):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        time.sleep(0.1)
    ear.close()
    assert order == []


@pytest.mark.parametrize("where", ["open", "close"])
def test_other_threads_leave_it_as_it_is(where: str) -> None:
    ear = SignalEar(print)
    if where == "close":
        ear.open()
    thread = threading.Thread(target=getattr(ear, where))
    thread.start()
    thread.join()
    assert (signal.set_wakeup_fd(-1) == -1) is (where == "open")
    ear.close()
