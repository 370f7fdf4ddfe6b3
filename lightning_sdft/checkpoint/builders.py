"""What a checkpoint names as the builder of its module: it may be Lightning's own, and nothing else.

Lightning stores beside the hyper-parameters which function builds the module from them, and imports and calls that
function when the checkpoint is loaded. Some releases of Lightning do so whatever function is named. Here the answer is
found without importing anything, and given to Lightning in place of what the checkpoint says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.cloud_io import _load

from lightning_sdft.checkpoint.files import load_checkpoint
from lightning_sdft.distributed.readable import reading
from lightning_sdft.errors import CheckpointError

__all__ = ["builder", "check_builders"]

BUILDER = "_instantiator"

LIGHTNINGS = "lightning.pytorch.cli.instantiate_module"
"""The builder of modules that the command line made; their hyper-parameters name classes, which it imports only from
trusted packages."""

KNOWN = (None, LIGHTNINGS, "pytorch_lightning.cli.instantiate_module")

PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments")
"""Where Lightning looks for hyper-parameters; the last two are of its earliest versions."""


def builder(checkpoint: Any) -> dict[str, str | None]:
    """The argument of Lightning's ``load_from_checkpoint`` that overrides the builder in a checkpoint.

    Args:
        checkpoint: The checkpoint's file, its address, or an open file.

    Raises:
        CheckpointError: If it cannot be read as data, or names a builder other than Lightning's.
    """
    content = _read(checkpoint)
    check_builders(content)
    named = any(BUILDER in _parameters(content, key) for key in PARAMETERS)
    return {BUILDER: LIGHTNINGS if named else None}


def check_builders(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that names a builder other than Lightning's.

    Raises:
        CheckpointError: If it does; nothing of it is imported.
    """
    for key in PARAMETERS:
        named = _parameters(checkpoint, key).get(BUILDER)
        if named not in KNOWN:
            raise CheckpointError(
                f"the checkpoint says that {named!r} should be called to build what its {key} describe, which would "
                "run code of whoever made the file; nothing was run. Use a checkpoint that lightning_sdft has written"
            )


def _read(checkpoint: Any) -> dict[str, Any]:
    if isinstance(checkpoint, str | Path) and "://" not in str(checkpoint):
        return load_checkpoint(checkpoint)
    begin = checkpoint.tell() if hasattr(checkpoint, "tell") else None
    with reading(checkpoint):
        content: dict[str, Any] = _load(checkpoint, map_location="cpu", weights_only=True)
    if begin is not None:
        checkpoint.seek(begin)
    return content


def _parameters(checkpoint: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    return found if isinstance(found, Mapping) else {}
