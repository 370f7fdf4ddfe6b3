from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import lightning_sdft
from lightning_sdft.checkpoint import (
    CheckedCheckpointIO,
    CheckpointError,
    check_checkpoint_file,
    check_method,
    describe_method,
    load_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step=3.ckpt"
    content = {"lightning_sdft": describe_method("SFTModule", "a-model"), "state_dict": {"x": torch.arange(1000)}}
    torch.save(content, path)
    return path


def test_description_says_method_model_and_version() -> None:
    expected = {"method": "SFTModule", "model": "a-model", "version": lightning_sdft.__version__}
    assert describe_method("SFTModule", "a-model") == expected


def test_own_method_passes() -> None:
    check_method({"lightning_sdft": describe_method("SFTModule", "a-model")}, "SFTModule")


def test_other_methods_are_refused_with_the_way_out() -> None:
    message = r"written by SFTModule, not by SDFTModule; .* export the checkpoint .* \(model=FOLDER\)"
    with pytest.raises(CheckpointError, match=message):
        check_method({"lightning_sdft": describe_method("SFTModule", "a-model")}, "SDFTModule")
    with pytest.raises(CheckpointError, match="written by something other than lightning_sdft, not by SDFTModule"):
        check_method({"state_dict": {}}, "SDFTModule")


def test_reads_a_whole_file(checkpoint: Path) -> None:
    check_checkpoint_file(checkpoint)
    content = load_checkpoint(checkpoint)
    assert content["lightning_sdft"]["method"] == "SFTModule"
    assert torch.equal(content["state_dict"]["x"], torch.arange(1000))
    assert CheckedCheckpointIO().load_checkpoint(checkpoint).keys() == content.keys()


def test_folder_of_a_sharded_checkpoint_is_not_looked_into(tmp_path: Path) -> None:
    check_checkpoint_file(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_torn_file_is_named_with_its_size(size: int, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    message = rf"step=3.ckpt' \({checkpoint.stat().st_size} bytes\) is truncated or not a checkpoint"
    for read in (check_checkpoint_file, load_checkpoint, CheckedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            read(checkpoint)


def test_absent_file_is_named(tmp_path: Path) -> None:
    for read in (check_checkpoint_file, load_checkpoint, CheckedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"there is no checkpoint '.*none.ckpt'"):
            read(tmp_path / "none.ckpt")


class Intruder:
    """Would create a file when unpickled freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"lightning_sdft": Intruder(tmp_path / "ran")}, checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(checkpoint)
    assert not (tmp_path / "ran").exists()
    assert zipfile.is_zipfile(checkpoint)
