"""Checkpoints: which method they are of, whether a file is whole, and how they become Hugging Face folders."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

import lightning_sdft
from lightning_sdft.checkpoint_contents import check_contents
from lightning_sdft.policy import Policy

__all__ = [
    "CheckedCheckpointIO",
    "CheckpointError",
    "check_checkpoint_file",
    "check_method",
    "describe_method",
    "load_checkpoint",
    "load_policy",
    "only_data",
    "read_only_data",
]

KEY = "lightning_sdft"


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


@contextmanager
def only_data(path: object) -> Iterator[None]:
    """Say which checkpoint it was that is read inside and holds more than data.

    Raises:
        CheckpointError: If torch refuses to read it.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"the checkpoint {str(path)!r} holds more than data{f' ({named[1]})' if named else ''}, and to read that "
            "would run code of whoever made the file; nothing was run. Use a checkpoint that lightning_sdft has "
            "written, or take the weights out of this one where it may do no harm"
        ) from None


@contextmanager
def _reading(path: object) -> Iterator[None]:
    """Say which checkpoint it was that is read inside and is none, or holds more than data."""
    try:
        with only_data(path):
            yield
    except (EOFError, OSError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the checkpoint {str(path)!r} cannot be read ({error}); it is broken or not a checkpoint, use another one"
        ) from error


def read_only_data(strategy: Strategy) -> None:
    """Let a strategy read checkpoints as data, and write them whole, whatever it and the trainer do by themselves."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckedCheckpointIO()
    load = partial(type(strategy).load_checkpoint, strategy)
    strategy.load_checkpoint = partial(_load_only_data, load)  # type: ignore[method-assign]


def _load_only_data(load: Callable[..., dict[str, Any]], path: Any, weights_only: object = None) -> dict[str, Any]:
    if "://" not in str(path):
        check_checkpoint_file(path)
        with _reading(path):
            check_contents(Path(path))
    with only_data(path):
        return load(path, weights_only=True)


class CheckedCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoint files, but a file is whole or it is not there.

    A local file is written beside its place, without a copy of the checkpoint in memory, and takes its place when it is
    on the disk. A torn file is refused by its name.
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
        unfinished = path.with_name(f".{path.name}.unfinished")
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
        """Check the file, where it is a local one, and read it as data.

        Raises:
            CheckpointError: If there is no such file, or it is torn or holds more than data.
        """
        if "://" not in str(path):
            check_checkpoint_file(path)
        with _reading(path):
            return super().load_checkpoint(path, *args, **{**kwargs, "weights_only": True})


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
        CheckpointError: If there is no such file, or it is torn or holds more than data.
    """
    while True:
        check_checkpoint_file(path)
        version = _version(path)
        with _reading(path):
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
