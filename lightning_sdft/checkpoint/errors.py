"""What is said of a checkpoint that cannot be used, and that none runs code when it is read."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CheckpointError", "only_data", "reading"]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message says which file, why, and what to do."""


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
def reading(path: object) -> Iterator[None]:
    """Say which checkpoint it was that is read inside and is none, or holds more than data.

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
