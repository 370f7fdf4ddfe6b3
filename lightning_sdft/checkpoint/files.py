"""Checkpoint files: they are written atomically, verified by their checksums, and read with ``weights_only=True``."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from lightning_sdft.distributed.readable import check_checkpoint_file, check_lightnings, reading
from lightning_sdft.distributed.sharded_checkpoint import check_sharded, is_sharded, read_sharded
from lightning_sdft.errors import CheckpointError
from lightning_sdft.storage.atomic import whole_file

__all__ = ["CheckedCheckpointIO", "check_whole", "load_checkpoint", "use_checked_files"]


def use_checked_files(strategy: Strategy) -> None:
    """Make a strategy write checkpoint files atomically, verify them, and read them with ``weights_only=True``."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpointIO()


def check_whole(path: str | Path) -> None:
    """Refuse an incomplete or damaged checkpoint: a truncated file, a changed bit, a missing shard.

    A file is read completely and compared with the checksums in it, which takes a third of a second per gigabyte plus
    the time to read from disk. A file that has not changed is not read again. For a sharded checkpoint, the sizes of
    the shards are compared with those in its index.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is incomplete or damaged.
    """
    path = Path(path)
    check_checkpoint_file(path)
    if is_sharded(path):
        check_sharded(path)
    elif (problem := _changed_record(path, _version(path))) is not None:
        raise CheckpointError(f"the checkpoint {str(path)!r} is not whole: {problem}; use an earlier one")


@lru_cache
def _changed_record(path: Path, version: tuple[int, int]) -> str | None:
    """The first record in a file whose checksum is wrong, as text; cached for each version of the file."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error)
    return None if name is None else f"{name} has changed since it was written"


class CheckedCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, but files are written atomically and verified before reading.

    A local file is first written under a temporary name in the same folder, without a copy of the checkpoint in memory,
    and renamed once it is on disk. Reading an incomplete or damaged file raises an error that names it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            CheckpointError: If it cannot be written; an earlier file of that name is then unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with whole_file(Path(path)) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for failed writes
            raise CheckpointError(
                f"the checkpoint {str(path)!r} could not be written ({error}); make room or choose another folder. "
                "Earlier checkpoints are unchanged"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Verify a local file and read it with ``weights_only=True``; from a sharded checkpoint, read only the weights.

        Raises:
            CheckpointError: If there is no such file, or if it is damaged, contains objects that ``weights_only=True``
                refuses, or was not written by Lightning.
        """
        checkpoint = self._read(path, *args, **kwargs)
        check_lightnings(checkpoint, path)
        return checkpoint

    def _read(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if "://" not in str(path):
            if is_sharded(path):
                return read_sharded(path)
            check_whole(path)
        with reading(path):
            return super().load_checkpoint(path, *args, **{**kwargs, "weights_only": True})


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; from a sharded one, everything except the optimizer states.

    Raises:
        CheckpointError: If there is no such file, or if it is damaged or contains objects that ``weights_only=True``
            refuses.
    """
    if is_sharded(path):
        return read_sharded(path)
    while True:
        check_checkpoint_file(path)
        version = _version(path)
        with reading(path):
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # torch opens the file twice, for the names and for the numbers. A run in progress may have replaced it between.
        if _version(path) == version:
            return checkpoint


def _version(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns
