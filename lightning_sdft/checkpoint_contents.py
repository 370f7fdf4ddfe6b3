"""Whether a checkpoint is data and nothing else.

A checkpoint file is a pickle, and to unpickle is to call whatever the pickle names. torch reads files with
``weights_only``, which calls nothing but constructors of data [1]. But it reads the index of a sharded checkpoint, and
the values beside its tensors, as pickles like any other, and Lightning's FSDP does so with whole files. So what they
are about to read is looked through first.

[1] PyTorch, Serialization semantics, https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

__all__ = ["check_contents"]

INDEX = ".metadata"
"""End of the names of files that say what is where in a sharded checkpoint."""

INDEX_CLASSES = {
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}
"""What an index is made of, by module; and torch's dtypes."""


def check_contents(path: Path) -> None:
    """Look through a checkpoint without running anything that it names.

    Args:
        path: A checkpoint file, or the folder of a sharded one.

    Raises:
        pickle.UnpicklingError: If it holds more than data.
        RuntimeError: If it cannot be read.
    """
    if path.is_file():
        _check(path)
        return
    indices = [each for each in path.iterdir() if each.name.endswith(INDEX)]
    if not indices:
        raise RuntimeError(f"a folder without {INDEX}")
    for index in indices:
        _check_values(path, _read_index(index))
    for each in path.glob("*.pt"):
        _check(each)


class _ForeignError(Exception):
    """An index names what is no part of one."""


class _IndexUnpickler(pickle.Unpickler):
    """Builds an index, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if name not in INDEX_CLASSES.get(module, ()) and not is_dtype:
            raise _ForeignError(f"{module}.{name}")
        return super().find_class(module, name)


def _read_index(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            index = _IndexUnpickler(file).load()
    except _ForeignError as error:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {error}") from None
    except Exception as error:  # a broken pickle may raise anything
        raise RuntimeError(f"{path.name} is broken: {error}") from error
    if not isinstance(index, Metadata):
        raise RuntimeError(f"{path.name} is no index")
    return index


def _check(content: Path | IO[bytes]) -> None:
    mmap = isinstance(content, Path)  # the numbers of large tensors are left where they are
    torch.load(content, map_location="meta", weights_only=True, mmap=mmap)


def _check_values(folder: Path, index: Metadata) -> None:
    """Look through the values of an index that are no tensors, and so are pickles."""
    for key, where in (index.storage_data or {}).items():
        if isinstance(index.state_dict_metadata.get(key.fqn), BytesStorageMetadata):
            if where.transform_descriptors:
                raise RuntimeError(f"{key.fqn} is compressed")
            with (folder / where.relative_path).open("rb") as file:
                file.seek(where.offset)
                _check(BytesIO(file.read(where.length)))
