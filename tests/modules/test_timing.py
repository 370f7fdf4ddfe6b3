from __future__ import annotations

import time

import pytest
import torch

from lightning_sdft.modules.timing import PhaseClock, peak_memory
from tests.launch import in_processes


def test_seconds_of_a_phase_add_up_until_they_are_read() -> None:
    clock = PhaseClock()
    for _ in range(2):
        with clock.phase("teacher"):
            time.sleep(0.02)
    with clock.phase("student"):
        pass
    seconds = clock.read()
    assert seconds.keys() == {"teacher", "student"}
    assert 0.04 <= seconds["teacher"] < 0.5
    assert 0 <= seconds["student"] < 0.02
    assert clock.read() == {}


def test_phases_may_overlap() -> None:
    clock = PhaseClock()
    clock.start("outer")
    with clock.phase("inner"):
        time.sleep(0.01)
    clock.stop("outer")
    seconds = clock.read()
    assert seconds["outer"] >= seconds["inner"] >= 0.01


def test_time_until_an_error_counts_and_the_phase_is_over() -> None:
    clock = PhaseClock()
    with pytest.raises(RuntimeError), clock.phase("student"):
        raise RuntimeError
    assert clock.read().keys() == {"student"}
    with pytest.raises(KeyError):
        clock.stop("student")


def test_listener_hears_each_phase_begin() -> None:
    clock = PhaseClock()
    heard: list[tuple[str, bool]] = []
    clock.listener = lambda phase: heard.append((phase, bool(clock.seconds)))
    with clock.phase("rollout"):
        pass
    with clock.quietly("student"):
        pass
    with clock.phase("teacher"):
        pass
    assert heard == [("rollout", False), ("teacher", True)]
    assert set(clock.seconds) == {"rollout", "student", "teacher"}


def grow() -> None:
    before = peak_memory()
    assert 50 < before < 100_000
    block = torch.ones(int(before + 64) * 2**18)  # float32: MiB more than the process has ever had
    assert peak_memory() > before + 32
    del block
    assert peak_memory() > before + 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the memory of the accelerator is meant")
def test_peak_memory_of_the_process_is_in_mebibytes_and_never_falls() -> None:
    in_processes(1, grow)  # for this one may have had gigabytes
