"""What a checkpoint must be before anything is made of it: there, written to its end, a trainer's, and data alone."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_sdft.errors import CheckpointError

__all__ = ["check_checkpoint_file", "check_lightnings", "only_data", "reading"]


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


def check_lightnings(checkpoint: object, path: object) -> None:
    """Refuse what no trainer has written, however well it can be read.

    Raises:
        CheckpointError: If Lightning's version, by which trainers know their own, is not in it.
    """
    if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
        raise CheckpointError(
            f"{str(path)!r} holds data, but no checkpoint that a trainer has written; use one of lightning_sdft. "
            "A model is given as model=NAME"
        )


@contextmanager
def only_data(path: object) -> Iterator[None]:
    """Name the checkpoint if what is read inside holds more than data.

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
def reading(path: object) -> Iterator[None]:
    """Name the checkpoint if what is read inside is none, or holds more than data.

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
            f"the checkpoint {str(path)!r} cannot be read ({error}); it is broken or not a checkpoint, use another one"
        ) from error
