"""The index of a checkpoint in parts, which says what lies in which file, read as data.

torch unpickles it, which would run code that somebody put there.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from lightning_sdft.errors import CheckpointError

__all__ = ["IndexReader"]


class IndexReader(FileSystemReader):
    """Reads the index of a folder with no freedom to run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index.

        Raises:
            CheckpointError: If there is none, or it holds more than an index does.
        """
        index = Path(self.path) / ".metadata"
        try:
            with index.open("rb") as file:
                metadata = _IndexUnpickler(file).load()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{str(self.path)!r} is no checkpoint, or was not written to its end: it has no {index.name}"
            ) from error
        except Exception as error:  # whatever it is that is read as an index
            raise CheckpointError(f"the index {str(index)!r} is damaged: {error}") from error
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"the index {str(index)!r} is none")
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    """Knows what an index is made of, and nothing else.

    Names one by one: a module holds others that it imports, and to set their attributes a pickle needs to call nothing.
    """

    KNOWN = frozenset(
        {
            ("pathlib", "PosixPath"),
            ("pathlib", "WindowsPath"),
            ("torch", "Size"),
            ("torch", "device"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                    "_MEM_FORMAT_ENCODING",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN and not (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            raise CheckpointError(
                f"it names {module}.{name}, which no index does; it may be an attack, and nothing was run"
            )
        return super().find_class(module, name)
