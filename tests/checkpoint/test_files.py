from __future__ import annotations

import random
import time
import zipfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_sdft.checkpoint import CheckedCheckpointIO, check_whole, describe_method, load_checkpoint
from lightning_sdft.distributed.readable import check_checkpoint_file
from lightning_sdft.distributed.sharded_checkpoint import save_sharded
from lightning_sdft.errors import CheckpointError
from tests.command_process import CommandProcess
from tests.strangers import Intruder

LIGHTNINGS = {"pytorch-lightning_version": "2.6.4"}
"""What a trainer knows a checkpoint by."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step=3.ckpt"
    about = describe_method("SFTModule", "a-model")
    torch.save({**LIGHTNINGS, "lightning_sdft": about, "state_dict": {"x": torch.arange(1000)}}, path)
    return path


def test_reads_a_whole_file(checkpoint: Path) -> None:
    check_checkpoint_file(checkpoint)
    content = load_checkpoint(checkpoint)
    assert content["lightning_sdft"]["method"] == "SFTModule"
    assert torch.equal(content["state_dict"]["x"], torch.arange(1000))
    assert CheckedCheckpointIO().load_checkpoint(checkpoint).keys() == content.keys()


def test_folder_of_a_sharded_checkpoint_is_not_looked_into(tmp_path: Path) -> None:
    check_checkpoint_file(tmp_path)


def flip(path: Path, position: int) -> None:
    """Change a bit of a file, and nothing that a look at its date would tell."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 8]))


def test_a_changed_bit_in_a_tensor_is_found(checkpoint: Path) -> None:
    check_whole(checkpoint)
    content = checkpoint.read_bytes()
    flip(checkpoint, content.index(torch.arange(500, 503).numpy().tobytes()))
    assert torch.load(checkpoint)["state_dict"]["x"][500] != 500  # nobody else would say so
    for read in (check_whole, CheckedCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"step=3.ckpt' is not whole: .*/data/0 has changed since it was"):
            read(checkpoint)


def test_any_changed_bit_of_the_records_is_found(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as file:
        records = [record for record in file.infolist() if record.file_size]
        positions = {record.filename: content.index(file.read(record)) for record in records}
    for position in positions.values():
        flip(checkpoint, position)
        with pytest.raises(CheckpointError, match="is not whole"):
            check_whole(checkpoint)
        flip(checkpoint, position)
    check_whole(checkpoint)


def test_a_file_is_read_once_as_long_as_it_does_not_change(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_whole(checkpoint)
    read = []
    original = zipfile.ZipFile.testzip
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda file: read.append(1) or original(file))
    check_whole(checkpoint)
    assert not read
    checkpoint.write_bytes(checkpoint.read_bytes())
    check_whole(checkpoint)
    assert read == [1]


@pytest.mark.parametrize("part", [".metadata", "meta.pt", "__0_0.distcp"])
def test_folder_is_whole_with_all_its_parts(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "step=4.ckpt"
    save_sharded({"state_dict": {"x": torch.arange(100)}, "global_step": 4}, folder)
    check_whole(folder)
    content = (folder / part).read_bytes()
    (folder / part).write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match=part):
        check_whole(folder)
    (folder / part).unlink()
    with pytest.raises(CheckpointError, match=part):
        check_whole(folder)


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_torn_file_is_named_with_its_size(size: int, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    message = rf"step=3.ckpt' \({checkpoint.stat().st_size} bytes\) is truncated or not a checkpoint"
    for read in (check_checkpoint_file, check_whole, load_checkpoint, CheckedCheckpointIO().load_checkpoint):
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
for number in range(10**9 if not limit else 1):
    writer.save_checkpoint({"number": number, "state": torch.full((2**19,), float(number))}, path)
"""


@pytest.mark.parametrize("content", [[3], {"state_dict": {"x": torch.ones(3)}}])
def test_data_that_no_trainer_wrote_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights.pt' holds data, but no checkpoint .* model=NAME"):
        CheckedCheckpointIO().load_checkpoint(tmp_path / "weights.pt")


def test_writes_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    content = {**LIGHTNINGS, "state_dict": {"x": torch.arange(1000)}, "number": 3}
    CheckedCheckpointIO().save_checkpoint(content, tmp_path / "made" / "a.ckpt")
    read = CheckedCheckpointIO().load_checkpoint(tmp_path / "made" / "a.ckpt")
    assert torch.equal(read["state_dict"]["x"], content["state_dict"]["x"])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["a.ckpt"]


def test_a_disk_that_is_full_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    CheckedCheckpointIO().save_checkpoint({"number": -1, "state": torch.zeros(3)}, path)
    before = path.read_bytes()
    run = CommandProcess(path, 2**20, script=WRITER, log=tmp_path / "log.txt")  # half of what it is to write
    assert run.wait(60) == 1
    assert "last.ckpt' could not be written" in (tmp_path / "log.txt").read_text()
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"last.ckpt", "log.txt"}


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    rng = random.Random(0)
    process = CommandProcess(path, 0, script=WRITER)
    try:
        while not path.exists():
            assert process.poll() is None
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
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10, flush=True)
"""
    process = CommandProcess(tmp_path / "large.ckpt", script=script, log=tmp_path / "log.txt")
    assert process.wait(60) == 0
    assert float((tmp_path / "log.txt").read_text()) < 64


def test_what_is_unfinished_is_no_checkpoint_of_slurm_to_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was killed while it wrote one would be sent to a file that is not there."""
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False)
    seen, resumed = [], []

    def look(_: int) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        resumed.append(trainer._checkpoint_connector._hpc_resume_path)

    monkeypatch.setattr("os.fsync", look)
    CheckedCheckpointIO().save_checkpoint({"state": 1}, tmp_path / "hpc_ckpt_2.ckpt")
    (name,) = seen[0]
    assert name.startswith(".ckpt_2.ckpt.")
    assert name.endswith(".unfinished")
    assert resumed == [None, str(tmp_path / "hpc_ckpt_2.ckpt")]
