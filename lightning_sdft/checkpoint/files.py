"""Checkpoint files: each is written whole or not at all, compared with its checksums, and read as data."""

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

__all__ = ["CheckedCheckpointIO", "check_whole", "load_checkpoint", "use_checked_files"]


def use_checked_files(strategy: Strategy) -> None:
    """Let a strategy write checkpoint files whole and read them as data."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpointIO()


def check_whole(path: str | Path) -> None:
    """Refuse a checkpoint that is not what was written: a truncated file, a changed bit, a missing shard.

    A file is read to its end and compared with the checksums in it (a third of a second per gigabyte, beside the disk);
    once, as long as it does not change. Of a folder of parts, their sizes are compared with what its index says.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is not whole.
    """
    path = Path(path)
    check_checkpoint_file(path)
    if is_sharded(path):
        check_sharded(path)
    elif (problem := _changed_record(path, _version(path))) is not None:
        raise CheckpointError(f"the checkpoint {str(path)!r} is not whole: {problem}; use an earlier one")


@lru_cache
def _changed_record(path: Path, version: tuple[int, int]) -> str | None:
    """What does not have its checksum, in a version of a file."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error)
    return None if name is None else f"{name} has changed since it was written"


class CheckedCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoint files, but a file is whole or it is not there.

    A local file is written beside its place, without a copy of the checkpoint in memory, and takes its place when it is
    on the disk. One that is not whole is refused by its name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            CheckpointError: If the disk does not take it; what was there before is as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Lightning takes whatever has hpc_ckpt_ in its name for a checkpoint.
        unfinished = path.with_name(f".{path.name.removeprefix('hpc_')}.unfinished")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter for what the system refuses
            raise CheckpointError(
                f"the checkpoint {str(path)!r} could not be written ({error}); make room or choose another folder. "
                "Checkpoints that were there before are good"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Check the file, where it is a local one, and read it as data; of a folder of parts, weights alone.

        Raises:
            CheckpointError: If there is no such file, or it is torn, holds more than data, or is not Lightning's.
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


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as data, running no code from it; of a folder of parts, all but the optimizer states.

    Raises:
        CheckpointError: If there is no such file, or it is torn or holds more than data.
    """
    if is_sharded(path):
        return read_sharded(path)
    while True:
        check_checkpoint_file(path)
        version = _version(path)
        with reading(path):
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # It is opened twice, for names and for numbers, and a run that is still going on may have put another between.
        if _version(path) == version:
            return checkpoint


def _version(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns
