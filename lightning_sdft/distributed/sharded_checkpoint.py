"""Sharded checkpoints: folders to which each process writes its part, and which any number of processes can read.

torch would unpickle the index of such a folder and everything in it that is not a tensor, and so run any code that
somebody put there. Here both are read as data only (the index by
:mod:`lightning_sdft.distributed.checkpoint_index`).
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
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
from lightning_sdft.distributed.processes import any_process, barrier, of_first_process, process_index
from lightning_sdft.distributed.readable import only_data, reading
from lightning_sdft.errors import CheckpointError
from lightning_sdft.storage.atomic import locked_folder, remove_left_behind, sync, temporary_name

__all__ = ["check_sharded", "is_sharded", "load_sharded", "read_sharded", "save_sharded"]

REMAINDER = "meta.pt"
"""File for everything other than weights and optimizer states; Lightning uses the same name."""


def is_sharded(path: str | Path) -> bool:
    """Whether a path is the folder of a sharded checkpoint, complete or not."""
    return Path(path).is_dir()


def check_sharded(folder: str | Path) -> Metadata:
    """Check that all parts of a sharded checkpoint are there.

    Returns:
        Its index, which says what is stored in which file.

    Raises:
        CheckpointError: If a part is missing or too short, or the index cannot be read.
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
        raise CheckpointError(
            f"the part {REMAINDER} of the checkpoint {str(folder)!r} is truncated; use an earlier checkpoint"
        )
    return metadata


def save_sharded(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint, each process its own part. Every process must call it.

    The folder appears only when it is complete.

    Args:
        checkpoint: Lightning's checkpoint: sharded weights and optimizer states, and everything else, which the first
            process writes.
        folder: Folder to write to; an earlier checkpoint there is replaced.

    Raises:
        CheckpointError: On every process, if any process fails to write; an earlier checkpoint is left untouched.
    """
    parts = {"state_dict": checkpoint.pop("state_dict")}
    parts |= {f"optimizer_{index}": state for index, state in enumerate(checkpoint.pop("optimizer_states", []))}
    unfinished = of_first_process(temporary_name(folder))
    first = process_index() == 0
    if first:
        remove_left_behind(folder)
    with locked_folder(unfinished) if first else nullcontext():
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
        failed = any_process(problem is not None)
    if failed:
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {str(folder)!r} could not be written ({_reason(problem)}); make room or "
            "choose another folder. Earlier checkpoints are intact"
        ) from problem


def load_sharded(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Load weights into a sharded module and states into its optimizers. Every process must call it.

    Returns:
        The rest of the checkpoint.

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
    """Read a checkpoint with unsharded weights in a single process, without its optimizer states.

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
    """What went wrong, without the tracebacks of every process."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error or "by another process"


def _remainder(folder: Path) -> dict[str, Any]:
    with reading(folder / REMAINDER):
        remainder: dict[str, Any] = torch.load(folder / REMAINDER, map_location="cpu", weights_only=True)
    return remainder


def _replace(unfinished: Path, folder: Path) -> None:
    """Move a finished folder to its final name. Folders cannot be swapped atomically: for a moment there is none."""
    before = temporary_name(folder)
    if folder.is_dir() and not folder.is_symlink():
        os.replace(folder, before)
    else:
        folder.unlink(missing_ok=True)
    os.replace(unfinished, folder)
    shutil.rmtree(before, ignore_errors=True)
    sync(folder.parent)


def _sync(folder: Path) -> None:
    """Flush all files of a folder to disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


class _Planner(DefaultLoadPlanner):
    """Loads everything that is not a tensor with ``weights_only=True``, so that no code runs."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
