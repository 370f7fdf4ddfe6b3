from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from lightning_sdft.checkpoint_contents import check_contents
from tests import strangers


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A sharded checkpoint with an optimizer, whose settings are values beside the tensors."""
    strangers.sharded_checkpoint(tmp_path / "shards")
    return tmp_path / "shards"


def test_sharded_checkpoint_of_torch_is_data(shards: Path) -> None:
    check_contents(shards)


def test_file_of_torch_is_data(tmp_path: Path) -> None:
    layers = {"weight": torch.nn.Parameter(torch.ones(2, 2)), "half": torch.ones(3, dtype=torch.bfloat16)}
    torch.save({"state_dict": layers, "callbacks": {"a": [1, 2.0, None, True, {"x": "y"}]}}, tmp_path / "a.ckpt")
    check_contents(tmp_path / "a.ckpt")


def test_numbers_are_not_read(tmp_path: Path) -> None:
    """Looking at a checkpoint of any size takes the memory of none of its tensors."""
    torch.save({"state_dict": {"weight": torch.ones(2**20)}}, tmp_path / "a.ckpt")
    content = bytearray((tmp_path / "a.ckpt").read_bytes())
    start = content.index(torch.ones(2**10).numpy().tobytes())
    content[start : start + 2**20] = bytes(2**20)  # a checksum would notice
    (tmp_path / "a.ckpt").write_bytes(content)
    check_contents(tmp_path / "a.ckpt")


@pytest.mark.parametrize("kind", ["shards: rest", "shards: index", "shards: value"])
def test_intruder_is_named_and_not_run(kind: str, shards: Path, tmp_path: Path) -> None:
    strangers.spoil(shards, kind, strangers.Intruder(tmp_path / "ran"))
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL (getattr|pathlib\.Path\.touch)"):
        check_contents(shards)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["__import__", "eval", "getattr"])
def test_index_names_nothing_else(name: str, shards: Path) -> None:
    (shards / ".metadata").write_bytes(b"cbuiltins\n" + name.encode() + b"\n.")
    with pytest.raises(pickle.UnpicklingError, match=f"GLOBAL builtins.{name}"):
        check_contents(shards)


@pytest.mark.parametrize("path", [b"torch\nload", b"torch.distributed.checkpoint.metadata\npickle", b"torch\nhub.load"])
def test_index_names_only_what_it_is_made_of(path: bytes, shards: Path) -> None:
    (shards / ".metadata").write_bytes(b"\x80\x04c" + path + b"\n.")
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        check_contents(shards)


def test_index_of_another_process_is_looked_at_too(shards: Path, tmp_path: Path) -> None:
    (shards / "__1.metadata").write_bytes(pickle.dumps(strangers.Intruder(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError):
        check_contents(shards)


def test_folder_without_index_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"a folder without \.metadata"):
        check_contents(tmp_path)


def test_compressed_values_cannot_be_looked_at(shards: Path) -> None:
    index = pickle.loads((shards / ".metadata").read_bytes())
    next(iter(index.storage_data.values())).transform_descriptors = ("zstd",)
    (shards / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(RuntimeError, match="is compressed"):
        check_contents(shards)


def test_folder_from_which_a_file_is_missing(shards: Path) -> None:
    next(shards.glob("*.distcp")).unlink()
    with pytest.raises(OSError, match=r"\.distcp"):
        check_contents(shards)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1}), b"\x80\x04cpathlib\nPath\n(KtR.", b"0"])
def test_broken_index(content: bytes, shards: Path) -> None:
    (shards / ".metadata").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"\.metadata is"):
        check_contents(shards)


@pytest.mark.parametrize("length", [1, 40, 1000])
def test_torn_index(length: int, shards: Path) -> None:
    (shards / ".metadata").write_bytes((shards / ".metadata").read_bytes()[:length])
    with pytest.raises(RuntimeError, match=r"\.metadata is broken"):
        check_contents(shards)
