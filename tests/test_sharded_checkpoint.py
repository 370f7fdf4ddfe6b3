from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_saver import save

from lightning_sdft import sharded_checkpoint
from lightning_sdft.sharded_checkpoint import CheckpointError, check_sharded, is_sharded, read_sharded, save_sharded


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def checkpoint(value: float = 1.0) -> dict[str, Any]:
    weights = {"policy.a": torch.full((4, 3), value), "policy.b": torch.arange(5)}
    optimizer = {
        "state": {"policy.a": {"step": torch.tensor(3.0)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
    }
    return {"state_dict": weights, "optimizer_states": [optimizer], "global_step": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_sharded(checkpoint(), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_weights_and_the_rest_come_back(folder: Path) -> None:
    assert is_sharded(folder)
    found = read_sharded(folder)
    expected = checkpoint()
    assert found["global_step"] == 3
    assert found.keys() == {"state_dict", "global_step"}
    assert all(torch.equal(found["state_dict"][name], each) for name, each in expected["state_dict"].items())
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert [path.name for path in folder.parent.iterdir()] == ["last.ckpt"]


def test_another_takes_its_place(folder: Path) -> None:
    save_sharded(checkpoint(2.0), folder)
    assert read_sharded(folder)["state_dict"]["policy.a"].unique() == 2
    assert [path.name for path in folder.parent.iterdir()] == ["last.ckpt"]


def test_takes_the_place_of_a_file_and_of_a_link(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file.ckpt").write_bytes(b"before")
    (tmp_path / "link.ckpt").symlink_to(folder)
    for name in ("file.ckpt", "link.ckpt"):
        save_sharded(checkpoint(3.0), tmp_path / name)
        assert read_sharded(tmp_path / name)["state_dict"]["policy.a"].unique() == 3
    assert read_sharded(folder)["state_dict"]["policy.a"].unique() == 1


def test_what_an_interrupted_run_left_is_no_checkpoint_and_is_replaced(folder: Path) -> None:
    unfinished = folder.with_name(".last.ckpt.unfinished")
    unfinished.mkdir()
    (unfinished / "__9_0.distcp").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not written to its end"):
        check_sharded(unfinished)
    save_sharded(checkpoint(2.0), folder)
    assert not unfinished.exists()
    assert not list(folder.glob("__9*"))


@pytest.mark.parametrize("where", ["save", "_sync", "torch.save"])
def test_full_disk_leaves_what_was_there(folder: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((torch, "save") if where == "torch.save" else (sharded_checkpoint, where)), full)
    with pytest.raises(CheckpointError, match=r"last.ckpt' could not be written .*No space left.*make room"):
        save_sharded(checkpoint(2.0), folder)
    monkeypatch.undo()
    assert read_sharded(folder)["state_dict"]["policy.a"].unique() == 1
    assert [path.name for path in folder.parent.iterdir()] == ["last.ckpt"]


def test_missing_and_short_parts_are_named(folder: Path) -> None:
    part = next(folder.glob("*.distcp"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=rf"the part {part.name} of .* has {len(whole) - 100} bytes of at least"):
        read_sharded(folder)
    part.unlink()
    with pytest.raises(CheckpointError, match=rf"the part {part.name} of .* is missing"):
        read_sharded(folder)
    part.write_bytes(whole)
    (folder / "meta.pt").unlink()
    with pytest.raises(CheckpointError, match=r"the part meta.pt of .* is missing"):
        read_sharded(folder)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"state": 1})])
def test_damaged_index_is_refused(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match="index"):
        read_sharded(folder)


def test_index_runs_no_code(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    index = Metadata({}, storage_data=Attack(marker))
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


def test_parts_run_no_code(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    state: dict[str, Any] = {"value": Attack(marker)}
    attack = tmp_path / "attack.ckpt"
    save(state, checkpoint_id=attack)
    (attack / "meta.pt").write_bytes((folder / "meta.pt").read_bytes())
    with pytest.raises(CheckpointError, match="does not fit or is damaged"):
        sharded_checkpoint._read({"value": 0}, attack)
    assert not marker.exists()


def test_rest_runs_no_code(folder: Path, tmp_path: Path) -> None:
    torch.save(Attack(tmp_path / "marker"), folder / "meta.pt")
    with pytest.raises(CheckpointError, match=r"meta.pt"):
        read_sharded(folder)
    assert not (tmp_path / "marker").exists()
