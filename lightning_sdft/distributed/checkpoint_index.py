"""A safe reader for the index of a sharded checkpoint, which says what is stored in which file.

torch would unpickle the index, and so run any code that somebody put there. Here it is read as data only.
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
    """Reads the index of a checkpoint folder without running any code in it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index.

        Raises:
            CheckpointError: If there is no index, or it holds more than an index does.
        """
        index = Path(self.path) / ".metadata"
        try:
            with index.open("rb") as file:
                metadata = _IndexUnpickler(file).load()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{str(self.path)!r} is not a checkpoint, or was not written to its end: it has no {index.name}; use "
                "another checkpoint"
            ) from error
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"the index {str(index)!r} is damaged: {error}; use another checkpoint") from error
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{str(index)!r} is not the index of a checkpoint; use another checkpoint")
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    """An unpickler that finds only the classes that an index is made of.

    They are listed one by one, because allowing a whole module would also allow everything that it imports, and a
    pickle can set attributes of that without calling anything.
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
                f"it names {module}.{name}, which no index does; it may be an attack, nothing was run"
            )
        return super().find_class(module, name)
