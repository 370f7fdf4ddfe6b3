from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from torch.distributed.checkpoint.metadata import Metadata

from lightning_sdft.distributed.sharded_checkpoint import read_sharded
from lightning_sdft.errors import CheckpointError
from tests.strangers import Intruder


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"state": 1})])
def test_damaged_index_is_refused(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match="index"):
        read_sharded(folder)


def test_index_runs_no_code(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    index = Metadata({}, storage_data=Intruder(marker))
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match=r"names pathlib.*an attack"):
        read_sharded(folder)
    assert not marker.exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert marker.exists()  # as torch would have done it


@pytest.mark.parametrize("module", ["torch.distributed.checkpoint.filesystem", "torch.distributed.checkpoint.metadata"])
def test_index_changes_no_module(module: str, folder: Path) -> None:
    """To set an attribute of what a module has imported, a pickle needs to call nothing."""
    attack = f"c{module}\nos\n}}S'linesep'\nS'changed'\nsb.".encode()
    (folder / ".metadata").write_bytes(attack)
    with pytest.raises(CheckpointError, match=rf"names {module}.os, which no index does"):
        read_sharded(folder)
    assert os.linesep != "changed"


def test_index_calls_nothing_of_torch_but_its_dtypes(folder: Path) -> None:
    (folder / ".metadata").write_bytes(b"ctorch\nload\n.")
    with pytest.raises(CheckpointError, match=r"names torch\.load, which no index does"):
        read_sharded(folder)
