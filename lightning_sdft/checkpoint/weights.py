"""Whether the weights in a checkpoint are those of the models that they are read into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_sdft.errors import CheckpointError

__all__ = ["fitting"]


@contextmanager
def fitting(state: Mapping[str, Any], module: nn.Module, file: object) -> Iterator[None]:
    """Turn torch's list of all weights that do not fit into an error that says how many there are, and what to do.

    Args:
        state: The weights that are read inside this context.
        module: What they are read into.
        file: The checkpoint's file, for the message; ``None`` if it is not known.

    Raises:
        CheckpointError: If the names or shapes of the weights differ; the message names the first of each kind.
    """
    try:
        yield
    except RuntimeError as error:
        own = module.state_dict()
        problems = {
            "have another shape": [name for name in own if name in state and own[name].shape != state[name].shape],
            "are missing": [name for name in own if name not in state],
            "have no place": [name for name in state if name not in own],
        }
        found = [f"{len(names)} {said} (the first is {names[0]!r})" for said, names in problems.items() if names]
        if isinstance(error, CheckpointError) or not found:
            raise
        named = "the checkpoint" if file is None else f"the checkpoint {str(file)!r}"
        raise CheckpointError(
            f"the weights in {named} are not those of the models of this run: {', '.join(found)}; set model and "
            "teacher as they were when it was written, or start a new run from what it holds (lightning-sdft export "
            "--checkpoint FILE, and model=FOLDER)"
        ) from error
