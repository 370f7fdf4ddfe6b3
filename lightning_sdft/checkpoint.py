"""Checkpoints: which method they are of, whether a file is whole, and how they become Hugging Face folders."""

from __future__ import annotations

import json
import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

import lightning_sdft
from lightning_sdft.policy import Policy

__all__ = [
    "CheckedCheckpointIO",
    "CheckpointError",
    "check_checkpoint_file",
    "check_method",
    "check_whole",
    "describe_method",
    "list_parts",
    "load_checkpoint",
    "load_policy",
]

KEY = "lightning_sdft"

PARTS = "parts.json"
"""In the folder of a sharded checkpoint: name and size in bytes of everything that belongs to it."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which file, why, and what to do."""


def describe_method(method: str, model: str) -> dict[str, str]:
    """What a checkpoint says about itself: the method's class, the model training started from, our version."""
    return {"method": method, "model": model, "version": lightning_sdft.__version__}


def check_method(checkpoint: dict[str, Any], method: str) -> None:
    """Refuse to go on with a checkpoint of another method.

    Raises:
        CheckpointError: If the checkpoint is of another method or not of this package.
    """
    saved = checkpoint.get(KEY, {}).get("method")
    if saved != method:
        raise CheckpointError(
            f"the checkpoint was written by {saved or 'something other than lightning_sdft'}, not by {method}; go on "
            f"with that method, or export the checkpoint to a Hugging Face folder and start {method} from it "
            "(model=FOLDER)"
        )


def check_checkpoint_file(path: str | Path) -> None:
    """Refuse a file that was not written to its end.

    Raises:
        CheckpointError: If there is no such file, or it is torn.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {str(path)!r}")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"the checkpoint {str(path)!r} ({path.stat().st_size} bytes) is truncated or not a checkpoint; use an "
            "earlier one"
        )


def check_whole(path: str | Path) -> None:
    """Refuse a checkpoint that is not what was written: a truncated file, a changed bit, a missing shard.

    A file is read to its end and compared with the checksums in it (a third of a second per gigabyte, beside the disk);
    once, as long as it does not change. Of the folder of a sharded checkpoint, the sizes of its parts are compared with
    the list of :func:`list_parts`.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is not whole.
    """
    path = Path(path)
    check_checkpoint_file(path)
    problem = _missing_part(path) if path.is_dir() else _changed_record(path, _version(path))
    if problem is not None:
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


def _missing_part(folder: Path) -> str | None:
    """What a folder lacks of its parts."""
    for name in (PARTS, ".metadata", "meta.pt"):
        if not (folder / name).is_file():
            return f"there is no {name}"
    for name, size in json.loads((folder / PARTS).read_text()).items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            return f"there is no {name}" if found is None else f"{name} has {found} bytes of {size}"
    return None


def list_parts(folder: str | Path) -> None:
    """Write down what belongs to a sharded checkpoint, when every process has written its parts."""
    folder = Path(folder)
    parts = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != PARTS}
    (folder / PARTS).write_text(json.dumps(parts, indent=1))


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
        """Check the file, where it is a local one, and read it."""
        if "://" not in str(path):
            check_whole(path)
        return super().load_checkpoint(path, *args, **kwargs)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file as data, running no code from it.

    Raises:
        CheckpointError: If there is no such file, or it is torn.
    """
    while True:
        check_checkpoint_file(path)
        version = _version(path)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # It is opened twice, for names and for numbers, and a run that is still going on may have put another between.
        if _version(path) == version:
            return checkpoint


def _version(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def load_policy(
    model: str | None,
    checkpoint: str | None,
    weights: Literal["student", "teacher"] = "student",
    trust_remote_code: bool = False,
) -> Policy:
    """A pretrained model, or one with the weights of a checkpoint.

    Args:
        model: Model that gives architecture and tokenizer; by default the one that the checkpoint was trained from.
        checkpoint: The checkpoint file; without one, the model has its own weights.
        weights: Whose weights to take from the checkpoint.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        CheckpointError: If neither is given, or if the file is torn, not a checkpoint of this package, or lacks the
            weights asked for.
    """
    if checkpoint is None:
        if model is None:
            raise CheckpointError("a model or a checkpoint is needed; give model=NAME or checkpoint=FILE")
        return Policy.load(model, trust_remote_code=trust_remote_code)
    content = load_checkpoint(checkpoint)
    if KEY not in content:
        raise CheckpointError(f"{checkpoint!r} is not a checkpoint of lightning_sdft")
    prefix = {"student": "policy.", "teacher": "teacher.policy."}[weights]
    state = content["state_dict"].items()
    state = {key.removeprefix(prefix): value for key, value in state if key.startswith(prefix)}
    if not state:
        raise CheckpointError(f"{checkpoint!r}, of {content[KEY]['method']}, has no weights of a {weights}")
    policy = Policy.load(model or content[KEY]["model"], pretrained=False, trust_remote_code=trust_remote_code)
    policy.load_state_dict(state)
    return policy
