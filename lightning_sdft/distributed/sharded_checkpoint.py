"""Checkpoints of which each process writes its part: a folder that any number of processes reads again, as data.

torch unpickles the index of such a folder and whatever in it is no tensor, which would run code that somebody put
there. Here both are read with no freedom to do so (the index by :mod:`lightning_sdft.distributed.checkpoint_index`).
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from lightning_sdft.distributed.checkpoint_index import IndexReader
from lightning_sdft.distributed.processes import any_process, barrier, process_index
from lightning_sdft.distributed.readable import only_data, reading
from lightning_sdft.errors import CheckpointError

__all__ = ["check_sharded", "is_sharded", "load_sharded", "read_sharded", "save_sharded"]

REMAINDER = "meta.pt"
"""What is neither weights nor optimizer states, where Lightning puts it too."""


def is_sharded(path: str | Path) -> bool:
    """Whether a path is a folder of parts, whole or not."""
    return Path(path).is_dir()


def check_sharded(folder: str | Path) -> Metadata:
    """Refuse a folder of which something is missing.

    Returns:
        Its index: what lies in which file.

    Raises:
        CheckpointError: If a part is missing or too short, or the index is none.
    """
    folder = Path(folder)
    metadata = IndexReader(folder).read_metadata()
    ends: dict[str, int] = {}
    for place in metadata.storage_data.values():
        ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
    for name, end in {REMAINDER: 1, **ends}.items():
        part = folder / name
        if not part.is_file() or part.stat().st_size < end:
            state = "is missing" if not part.is_file() else f"has {part.stat().st_size} bytes of at least {end}"
            raise CheckpointError(
                f"the part {name} of the checkpoint {str(folder)!r} {state}; copy the folder again, or use an earlier "
                "checkpoint"
            )
    if not zipfile.is_zipfile(folder / REMAINDER):
        raise CheckpointError(f"the part {REMAINDER} of the checkpoint {str(folder)!r} is torn; use an earlier one")
    return metadata


def save_sharded(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint, each process its part; every process calls it. The folder is whole, or it is not there.

    Args:
        checkpoint: What Lightning saves: sharded weights and optimizer states, and the rest, which the first process
            writes.
        folder: Where to; what was there before is replaced.

    Raises:
        CheckpointError: If a disk does not take it, on every process; what was there before is as it was.
    """
    parts = {"state_dict": checkpoint.pop("state_dict")}
    parts |= {f"optimizer_{index}": state for index, state in enumerate(checkpoint.pop("optimizer_states", []))}
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    first = process_index() == 0
    if first:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    barrier()
    problem = None
    try:
        save(parts, checkpoint_id=unfinished)
        if first:
            torch.save(checkpoint, unfinished / REMAINDER)
            _sync(unfinished)
            _replace(unfinished, folder)
    except (OSError, RuntimeError, CheckpointException) as error:
        problem = error
    if any_process(problem is not None):
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {str(folder)!r} could not be written ({_reason(problem)}); make room or "
            "choose another folder. Checkpoints that were there before are good"
        ) from problem


def load_sharded(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Read weights into a sharded module and states into its optimizers; every process calls it.

    Returns:
        The rest.

    Raises:
        CheckpointError: If something is missing.
    """
    check_sharded(folder)
    state = {"state_dict": get_model_state_dict(module)}
    _read(state, folder)
    module.load_state_dict(state["state_dict"], strict=getattr(module, "strict_loading", True))
    for index, optimizer in enumerate(optimizers):
        name = f"optimizer_{index}"
        states = {name: get_optimizer_state_dict(module, optimizer)}
        _read(states, folder)
        set_optimizer_state_dict(module, optimizer, optim_state_dict=states[name])
    return _remainder(folder)


def read_sharded(folder: str | Path) -> dict[str, Any]:
    """Read a checkpoint without its optimizer states, all weights whole, in a single process.

    Raises:
        CheckpointError: If something is missing.
    """
    folder = Path(folder)
    stored = check_sharded(folder).state_dict_metadata.items()
    weights: dict[str, Tensor] = {
        name: torch.empty(tensor.size, dtype=tensor.properties.dtype)
        for name, tensor in stored
        if isinstance(tensor, TensorStorageMetadata) and name.startswith("state_dict.")
    }
    _read(weights, folder, no_dist=True)
    state = {name.removeprefix("state_dict."): weight for name, weight in weights.items()}
    return {**_remainder(folder), "state_dict": state}


def _read(state: dict[str, Any], folder: Path, no_dist: bool = False) -> None:
    with only_data(folder):
        try:
            load(state, storage_reader=IndexReader(folder), planner=_Planner(), no_dist=no_dist)
        except (RuntimeError, CheckpointException) as error:
            reason = _reason(error)
            if isinstance(reason, pickle.UnpicklingError):
                raise reason from None
            raise CheckpointError(f"the checkpoint {str(folder)!r} does not fit or is damaged: {reason}") from error


def _reason(error: BaseException | None) -> object:
    """What went wrong, without the tracebacks of all processes."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error or "by another process"


def _remainder(folder: Path) -> dict[str, Any]:
    with reading(folder / REMAINDER):
        remainder: dict[str, Any] = torch.load(folder / REMAINDER, map_location="cpu", weights_only=True)
    return remainder


def _replace(unfinished: Path, folder: Path) -> None:
    """Put a folder in its place. A folder cannot take the place of another at once: for a moment there is none."""
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        os.replace(folder, before)
    else:
        folder.unlink(missing_ok=True)
    os.replace(unfinished, folder)
    shutil.rmtree(before, ignore_errors=True)
    _sync_names(folder.parent)


def _sync(folder: Path) -> None:
    """Put all files of a folder on the disk."""
    for path in folder.iterdir():
        _sync_names(path)
    _sync_names(folder)


def _sync_names(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Planner(DefaultLoadPlanner):
    """Reads what is no tensor with no freedom to run code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
