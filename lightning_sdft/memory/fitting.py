"""Chooses micro-batches that fit in the memory that there is, and refuses runs that cannot fit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import DataError, PolicyError
from lightning_sdft.memory.estimate import estimate
from lightning_sdft.memory.lengths import Lengths, lengths_by_budgets, lengths_by_data
from lightning_sdft.memory.plan import TrainerPlan
from lightning_sdft.memory.remedies import remedies
from lightning_sdft.modules import CausalLMModule
from lightning_sdft.modules.timing import resident_memory

__all__ = ["Fitting", "Room", "fitting", "in_gib", "room"]

BUSY_TOKENS = 8192
"""Tokens of a micro-batch that keep a device busy: with more it takes more memory, and hardly less time."""

SHARES = {True: 0.85, False: 0.6}
"""Share of a device's memory that micro-batches are chosen for, by whether it is an accelerator.

Gaps between tensors are not estimated, and a CPU has other work. What is free at the moment does not count: a run that
goes on must choose what it chose before, to go on exactly.
"""

MEMORY, AVAILABLE = Path("/proc/meminfo"), re.compile(r"^MemAvailable: +([0-9]+) kB", re.MULTILINE)
"""Where Linux says how much memory is free."""


@dataclass(frozen=True)
class Room:
    """Memory for one process, in bytes.

    Args:
        free: What is free now, with what this process has already; for several processes not known.
        total: What the device has.
    """

    free: int
    total: int


@dataclass(frozen=True)
class Fitting:
    """What a run takes.

    Args:
        micro_batch_size: Prompts in a micro-batch.
        peak: Estimate of the largest memory of one process, in bytes.
        weights: Memory of the student's weights, in bytes.
    """

    micro_batch_size: int
    peak: int
    weights: int


def room(accelerator: bool, processes: int) -> Room:
    """The memory that a process has for itself.

    Args:
        accelerator: Whether each process has an accelerator of its own; otherwise they share the CPU's memory.
        processes: Number of processes that train together.
    """
    if accelerator and torch.cuda.is_available():
        free, total = map(min, zip(*map(torch.cuda.mem_get_info, range(torch.cuda.device_count())), strict=True))
        return Room(free if processes == 1 else total, total)  # a process sees what the others have taken, or not yet
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes
    known = AVAILABLE.search(MEMORY.read_text()) if MEMORY.is_file() and processes == 1 else None
    return Room(total if known is None else min(total, int(known[1]) * 1024 + round(resident_memory() * 2**20)), total)


def fitting(module: CausalLMModule, datamodule: DemonstrationDataModule, plan: TrainerPlan, memory: Room) -> Fitting:
    """The micro-batch with which a run fits: the one that is set, or else the largest that is of use.

    Args:
        module: The module, which has not loaded its models; it is left as it was.
        datamodule: Its data; it is left as it was.
        plan: The trainer's settings.
        memory: The memory of a process.

    Raises:
        PolicyError: If the run takes more memory than the device has.
    """
    process = None if plan.accelerator else round(resident_memory() * 2**20)
    sizes = [datamodule.micro_batch_size] if datamodule.micro_batch_size else _useful(module, datamodule, plan)
    for size in sizes:
        with _micro_batches(datamodule, size):
            lengths = _lengths(module, datamodule, plan)
            found = estimate(module, plan, lengths, process)
            limit = memory.total * (1.0 if size == sizes[-1] else SHARES[plan.accelerator])
            if found.peak <= limit:
                return Fitting(size, found.peak, found.held["student's weights"])
    with _micro_batches(datamodule, size):
        others = remedies(module, datamodule, plan, len(lengths.evaluated), found)
    ways = [f"{each.settings} ({in_gib(each.peak)})" for each in others if each.peak <= memory.total]
    together = " together with ".join(each.settings for each in others[:2])
    advice = f"take {', or '.join(ways[:3])}" if ways else f"try a smaller model, or {together or 'a smaller batch'}"
    raise PolicyError(
        f"{module.model} would take {in_gib(found.peak)} at the peak of training, and {in_gib(memory.total)} is all "
        f"that there is for a process; {advice}. `lightning-sdft memory` with the same arguments shows what takes it"
    )


def in_gib(size: int) -> str:
    """A number of bytes as text."""
    return f"{size / 2**30:.1f} GiB"


def _useful(module: CausalLMModule, datamodule: DemonstrationDataModule, plan: TrainerPlan) -> list[int]:
    """Numbers of prompts that divide those of a step, from the one that keeps a device busy downwards."""
    group = datamodule.group_size(plan.processes)
    with _micro_batches(datamodule, 1):
        lengths = _lengths(module, datamodule, plan)
    longest = max(
        prompt + lengths.generations * completion for prompt, completion in (*lengths.student, *lengths.teacher)
    )
    sizes = [size for size in range(group, 0, -1) if group % size == 0]
    return [size for size in sizes if size * longest <= BUSY_TOKENS] or [1]


def _lengths(module: CausalLMModule, datamodule: DemonstrationDataModule, plan: TrainerPlan) -> Lengths:
    """The lengths in the data, or those of the budgets if the data cannot be read; their next reader says why."""
    try:
        return lengths_by_data(module, datamodule, plan.processes)
    except (DataError, OSError):
        return lengths_by_budgets(module, datamodule, plan.processes, datamodule.evaluation_batch_size)


@contextmanager
def _micro_batches(datamodule: DemonstrationDataModule, size: int) -> Iterator[None]:
    before = datamodule.micro_batch_size
    datamodule.micro_batch_size = size
    try:
        yield
    finally:
        datamodule.micro_batch_size = before
