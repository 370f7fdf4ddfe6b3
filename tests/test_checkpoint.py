from __future__ import annotations

import random
import subprocess
import sys
import time
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
from tests.strangers import Intruder


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


def test_code_in_a_checkpoint_is_named_and_not_run(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"lightning_sdft": Intruder(tmp_path / "ran")}, checkpoint)
    message = r"step=3.ckpt' holds more than data \(getattr\), .* nothing was run. Use a checkpoint that"
    for read in (load_checkpoint, CheckedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            read(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        CheckedCheckpointIO().load_checkpoint(checkpoint, weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_other_zip_files_are_no_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as file:
        file.writestr("letter.txt", "Dear reader")
    for read in (load_checkpoint, CheckedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"a.ckpt' cannot be read \(.*\); it is broken or not a checkpoint"):
            read(tmp_path / "a.ckpt")


# Writing

WRITER = """
import resource, sys, torch
from lightning_sdft.checkpoint import CheckedCheckpointIO
path, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = CheckedCheckpointIO()
print("ready", flush=True)
for number in range(10**9 if not limit else 1):
    writer.save_checkpoint({"number": number, "state": torch.full((2**19,), float(number))}, path)
"""


def test_writes_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    content = {"state_dict": {"x": torch.arange(1000)}, "number": 3}
    CheckedCheckpointIO().save_checkpoint(content, tmp_path / "made" / "a.ckpt")
    read = CheckedCheckpointIO().load_checkpoint(tmp_path / "made" / "a.ckpt")
    assert torch.equal(read["state_dict"]["x"], content["state_dict"]["x"])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a.ckpt"]


def test_a_disk_that_is_full_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    CheckedCheckpointIO().save_checkpoint({"number": -1, "state": torch.zeros(3)}, path)
    before = path.read_bytes()
    command = [sys.executable, "-c", WRITER, str(path), str(2**20)]  # half of what it is to write
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode
    assert "last.ckpt' could not be written" in run.stderr
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    rng = random.Random(0)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            while not path.exists():
                time.sleep(0.01)
            for _ in range(20):  # whenever one looks, what is there is whole
                time.sleep(rng.random() / 20)
                read = load_checkpoint(path)
                assert torch.equal(read["state"], torch.full((2**19,), float(read["number"])))
        finally:
            process.kill()
    read = load_checkpoint(path)
    assert read["number"] > 0
    assert torch.equal(read["state"], torch.full((2**19,), float(read["number"])))
    CheckedCheckpointIO().save_checkpoint({"number": 0}, path)
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]  # what the killed process left is gone


def test_no_copy_of_the_checkpoint_is_made_in_memory(tmp_path: Path) -> None:
    script = """
import resource, sys, torch
from lightning_sdft.checkpoint import CheckedCheckpointIO
checkpoint = {"state": torch.ones(2**25)}  # 128 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
CheckedCheckpointIO().save_checkpoint(checkpoint, sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "large.ckpt")]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(grown) < 64
