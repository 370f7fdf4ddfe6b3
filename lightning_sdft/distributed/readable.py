"""Checks before a checkpoint is used: it exists, is complete, was written by a trainer, and holds only data."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_sdft.errors import CheckpointError
from lightning_sdft.storage.neighbours import neighbour_hint

__all__ = ["check_checkpoint_file", "check_lightnings", "only_data", "reading"]


def check_checkpoint_file(path: str | Path) -> None:
    """Check that a checkpoint file exists and was written to its end.

    Raises:
        CheckpointError: If there is no such file, or it is truncated.
    """
    path = Path(path)
    if not path.exists():
        beside = neighbour_hint(path, lambda each: each.suffix == ".ckpt")
        raise CheckpointError(f"there is no checkpoint {str(path)!r}{beside}; give the path of one")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"the checkpoint {str(path)!r} ({path.stat().st_size} bytes) is truncated or not a checkpoint; use an "
            "earlier one"
        )


def check_lightnings(checkpoint: object, path: object) -> None:
    """Check that Lightning's trainer has written a checkpoint.

    Raises:
        CheckpointError: If the entry with Lightning's version, which the trainer always writes, is missing.
    """
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise CheckpointError(
            f"{str(path)!r} holds data, but no checkpoint that a trainer has written; use a checkpoint written by "
            "lightning_sdft. To start from the weights of a model, set model=NAME"
        )


@contextmanager
def only_data(path: object) -> Iterator[None]:
    """Turn torch's refusal to unpickle code, inside this context, into an error that names the checkpoint.

    Raises:
        CheckpointError: If torch refuses to read it.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"the checkpoint {str(path)!r} holds more than data{f' ({named[1]})' if named else ''}, and reading that "
            "would run code of whoever made the file; nothing was run. Use a checkpoint that lightning_sdft has "
            "written, or extract the weights of this one in a sandbox"
        ) from None


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn errors of reading, inside this context, into one that names the checkpoint.

    Raises:
        CheckpointError: If reading it fails.
    """
    try:
        with only_data(path):
            yield
    except (EOFError, OSError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the checkpoint {str(path)!r} cannot be read ({error}); it is broken or not a checkpoint; use another one"
        ) from error
