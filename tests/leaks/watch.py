"""Whether a run grows: its memory, its objects, its threads and its files, step by step, beside its work."""

from __future__ import annotations

import ctypes
import gc
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lightning.pytorch import Callback

from lightning_sdft.records import Rollout

__all__ = ["LeakWatch", "Sample", "growth", "read_samples"]

PAGE = os.sysconf("SC_PAGE_SIZE")
MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


@dataclass(frozen=True)
class Sample:
    """What a process holds after an optimizer step.

    Args:
        step: The optimizer step.
        resident: Resident memory in MiB as it is found, with what the allocator keeps for later.
        live: Memory in MiB that the allocator has given out and not got back, after a collection.
        objects: Objects that Python's collector knows.
        threads: Threads of the process.
        files: Open files, sockets and pipes.
        tokens: Mean length of the step's rollouts: its work, with which memory may grow.
    """

    step: int
    resident: float
    live: float
    objects: int
    threads: int
    files: int
    tokens: float

    @classmethod
    def take(cls, step: int, rollouts: Sequence[Rollout]) -> Sample:
        """Look at this process (Linux, glibc)."""
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
        gc.collect()
        threads = len(os.listdir("/proc/self/task"))
        tokens = fmean(len(rollout.completion) for rollout in rollouts)
        files = len(os.listdir("/proc/self/fd"))
        return cls(step, resident, _allocated(), len(gc.get_objects()), threads, files, tokens)


class LeakWatch(Callback):
    """Takes samples of a run, and writes them to a file, a line of JSON each.

    Args:
        output: The file.
        every_n_steps: Optimizer steps between two samples.
    """

    def __init__(self, output: str, every_n_steps: int = 10) -> None:
        self.output = Path(output)
        self.every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step != self._last_step and step % self.every_n_steps == 0:
            self._last_step = step
            with self.output.open("a") as file:
                file.write(json.dumps(asdict(Sample.take(step, batch.group.rollouts))) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """The samples in a file."""
    return [Sample(**json.loads(line)) for line in path.read_text().splitlines()]


def growth(samples: Sequence[Sample], quantity: str) -> float:
    """How much a quantity grows in 100 steps: the median of the slopes between all pairs of samples [1].

    A step of the allocator, or a peak, moves it little; steady growth moves it fully.

    [1] Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, 1968, https://doi.org/10.2307/2285891
    """
    points = [(sample.step, float(getattr(sample, quantity))) for sample in samples]
    return 100 * median((y - x) / (later - earlier) for (earlier, x), (later, y) in combinations(points, 2))


class _Mallinfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc 2.33 and later returns."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLINFO)


def _allocated() -> float:
    """In arenas and in mappings of their own, in MiB; asking changes nothing, as trimming would."""
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return float(info.uordblks + info.hblkhd) / 2**20
