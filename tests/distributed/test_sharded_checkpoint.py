from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from lightning_sdft.distributed import sharded_checkpoint as sharded
from lightning_sdft.distributed.sharded_checkpoint import check_sharded, is_sharded, read_sharded, save_sharded
from lightning_sdft.errors import CheckpointError
from tests.distributed.conftest import checkpoint
from tests.strangers import Intruder


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
    unfinished = folder.with_name(".last.ckpt.0f.unfinished")
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

    monkeypatch.setattr(*((torch, "save") if where == "torch.save" else (sharded, where)), full)
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


def test_parts_run_no_code(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    state: dict[str, Any] = {"value": Intruder(marker)}
    attack = tmp_path / "attack.ckpt"
    save(state, checkpoint_id=attack)
    (attack / "meta.pt").write_bytes((folder / "meta.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"attack.ckpt' holds more than data .* nothing was run"):
        sharded._read({"value": 0}, attack)
    assert not marker.exists()


def test_rest_runs_no_code(folder: Path, tmp_path: Path) -> None:
    torch.save(Intruder(tmp_path / "marker"), folder / "meta.pt")
    with pytest.raises(CheckpointError, match=r"meta.pt"):
        read_sharded(folder)
    assert not (tmp_path / "marker").exists()
