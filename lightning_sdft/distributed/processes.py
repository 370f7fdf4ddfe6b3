"""The processes that train together: their number, the rank of this one, and reductions over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

__all__ = [
    "any_process",
    "barrier",
    "of_each_process",
    "of_first_process",
    "process_count",
    "process_index",
    "sums_over_processes",
]

T = TypeVar("T")


def process_count() -> int:
    """Number of processes that train together; 1 outside of distributed training."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """Rank of this process, from 0."""
    return distributed.get_rank() if process_count() > 1 else 0


def sums_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """Sum each value over all processes. Every process must call it, with the same number of values.

    Args:
        values: The values of this process.
        device: The device on which this process computes, which is where its backend communicates.
    """
    if process_count() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return sums.tolist()


def any_process(flag: bool) -> bool:
    """Whether the flag is set on at least one process. Every process must call it."""
    return any(of_each_process(flag))


def of_each_process(value: T) -> list[T]:
    """The values that all processes pass, in the order of their ranks. Every process must call it."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    distributed.all_gather_object(values, value)
    return values


def of_first_process(value: T) -> T:
    """The value that the first process passes. Every process must call it."""
    if process_count() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def barrier() -> None:
    """Wait until all processes have called this."""
    if process_count() > 1:
        any_process(False)
