"""The processes that train together: how many there are, which of them this is, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

__all__ = ["any_process", "barrier", "process_count", "process_index", "sums_over_processes"]


def process_count() -> int:
    """How many processes train together; 1 outside of distributed training."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if process_count() > 1 else 0


def sums_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """The sum over all processes of each value; every process calls it, with as many values.

    Args:
        values: This process's values.
        device: Where this process computes, for that is where its backend communicates.
    """
    if process_count() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return sums.tolist()


def any_process(flag: bool) -> bool:
    """Whether a flag is set on at least one process; every process calls it."""
    if process_count() == 1:
        return flag
    flags: list[bool] = [False] * process_count()
    distributed.all_gather_object(flags, flag)
    return any(flags)


def barrier() -> None:
    """Wait for all processes."""
    if process_count() > 1:
        any_process(False)
