"""Where a run goes on: the newest whole checkpoint of its versions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_sdft.checkpoint import CheckedCheckpointIO
from lightning_sdft.checkpoint.resume import checkpoints, continue_run, last_checkpoint, newest_whole
from lightning_sdft.distributed.sharded_checkpoint import save_sharded
from lightning_sdft.errors import CheckpointError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a checkpoint, each a second after the one before."""
    count = 0

    def one(name: str, folder: bool = False) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / name
        if folder:
            save_sharded({"state_dict": {"x": torch.arange(1000)}, "number": count}, path)
        else:
            CheckedCheckpointIO().save_checkpoint({"number": count, "x": torch.arange(1000)}, path)
        os.utime(path, (count, count))
        return path

    return one


def trainer(folder: Path, logger: Logger | None = None, dirpath: Path | None = None) -> Trainer:
    callbacks = [ModelCheckpoint(dirpath, monitor="step", save_last="link"), ModelCheckpoint(monitor="val/accuracy")]
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=[logger] if logger is not None else False,
        callbacks=callbacks,  # type: ignore[arg-type]  # a list of a subclass
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def board(folder: Path, version: int | str | None = None) -> TensorBoardLogger:
    return TensorBoardLogger(folder / "runs", "run", version)


def tear(path: Path) -> None:
    """Truncate a file, and leave its date."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-100])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_newest_of_all_versions_is_found_and_said(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("runs/run/version_0/checkpoints/step000009.ckpt")
    expected = write("runs/run/version_1/checkpoints/step000003.ckpt")
    write("runs/other/version_0/checkpoints/step000012.ckpt")
    with caplog.at_level("INFO"):
        assert continue_run(trainer(tmp_path, board(tmp_path))) == expected
    assert f"Training goes on from {expected}" in caplog.text


def test_logger_goes_on_in_the_version_of_the_checkpoint(write: Write, tmp_path: Path) -> None:
    write("runs/run/version_4/checkpoints/step000003.ckpt")
    write("runs/run/version_2/checkpoints/step000003.ckpt")
    (tmp_path / "runs/run/version_7").mkdir()
    logger = board(tmp_path)
    continue_run(trainer(tmp_path, logger))
    assert logger.version == 2
    named = board(tmp_path, "named")
    write("runs/run/named/checkpoints/step000003.ckpt")
    continue_run(trainer(tmp_path, named))
    assert named.version == "named"


def test_logger_that_would_overwrite_its_file_makes_a_new_version(write: Write, tmp_path: Path) -> None:
    expected = write("runs/run/version_4/checkpoints/step000003.ckpt")
    logger = CSVLogger(tmp_path / "runs", "run")
    assert continue_run(trainer(tmp_path, logger)) == expected
    assert logger.version == 5


def test_a_version_that_was_asked_for_is_the_only_one(write: Write, tmp_path: Path) -> None:
    expected = write("runs/run/version_1/checkpoints/step000003.ckpt")
    write("runs/run/version_2/checkpoints/step000003.ckpt")
    assert continue_run(trainer(tmp_path, board(tmp_path, 1))) == expected


def test_without_a_checkpoint_the_run_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = board(tmp_path)
    with caplog.at_level("INFO"):
        assert continue_run(trainer(tmp_path, logger)) is None
    assert "training starts anew" in caplog.text
    assert logger.version == 0
    with pytest.raises(CheckpointError, match="left no whole checkpoint"):
        last_checkpoint(trainer(tmp_path, board(tmp_path)))


def test_folders_of_callbacks_and_of_runs_without_a_logger(write: Write, tmp_path: Path) -> None:
    default, given = write("checkpoints/step000003.ckpt"), write("given/step000003.ckpt")
    assert set(checkpoints(trainer(tmp_path))) == {default}
    assert set(checkpoints(trainer(tmp_path, dirpath=tmp_path / "given"))) == {default, given}
    assert last_checkpoint(trainer(tmp_path, dirpath=tmp_path / "given")) == given


def test_what_is_not_whole_is_passed_over_with_its_name(write: Write, tmp_path: Path) -> None:
    folder = "runs/run/version_0/checkpoints"
    expected = write(f"{folder}/step000003.ckpt")
    torn, lacking = write(f"{folder}/step000006.ckpt"), write(f"{folder}/step000009.ckpt", folder=True)
    tear(torn)
    (lacking / "__0_0.distcp").unlink()
    os.utime(lacking, (3, 3))
    with pytest.warns(UserWarning, match="passed over") as warnings:
        assert continue_run(trainer(tmp_path, board(tmp_path))) == expected
    first, second = [str(each.message) for each in warnings if "passed over" in str(each.message)]
    assert "the part __0_0.distcp of the checkpoint" in first
    assert "step000009.ckpt' is missing" in first
    assert "step000006.ckpt'" in second
    assert "truncated" in second


def test_weights_alone_are_evaluated_but_training_does_not_go_on_from_them(write: Write, tmp_path: Path) -> None:
    whole, weights = write("checkpoints/step000003.ckpt"), tmp_path / "checkpoints/best.ckpt"
    state = {"state_dict": {"x": torch.arange(3)}}
    CheckedCheckpointIO().save_checkpoint({**state, "optimizer_states": []}, whole)
    CheckedCheckpointIO().save_checkpoint(state, weights)
    os.utime(whole, (3, 3))
    os.utime(weights, (6, 6))
    assert last_checkpoint(trainer(tmp_path)) == weights
    assert continue_run(trainer(tmp_path)) == whole
    whole.unlink()
    assert continue_run(trainer(tmp_path)) is None


def test_whole_folder_is_taken(write: Write, tmp_path: Path) -> None:
    write("checkpoints/step000003.ckpt")
    expected = write("checkpoints/step000006.ckpt", folder=True)
    assert last_checkpoint(trainer(tmp_path)) == expected


@pytest.mark.parametrize("target", ["step000003.ckpt", "gone.ckpt"])
def test_link_to_the_last_one_is_not_needed_and_may_dangle(target: str, write: Write, tmp_path: Path) -> None:
    write("checkpoints/step000003.ckpt")
    expected = write("checkpoints/step000006.ckpt")
    (tmp_path / "checkpoints/last.ckpt").symlink_to(target)
    assert last_checkpoint(trainer(tmp_path)) == expected


def test_what_was_being_written_is_no_checkpoint(write: Write, tmp_path: Path) -> None:
    expected = write("checkpoints/step000003.ckpt")
    for name in (".step000006.ckpt.0f.unfinished", ".step000006.ckpt"):
        shutil.copytree(write(f"other/{name}", folder=True), tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints/notes.txt").touch()
    assert checkpoints(trainer(tmp_path)) == [expected]


def test_under_slurm_its_checkpoints_are_among_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write("checkpoints/step000003.ckpt"), write("hpc_ckpt_1.ckpt")
    assert last_checkpoint(trainer(tmp_path)) == first
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert last_checkpoint(trainer(tmp_path)) == second


def test_of_equal_dates_the_later_name_is_taken(write: Write, tmp_path: Path) -> None:
    paths = [write(f"checkpoints/step00000{step}.ckpt") for step in (3, 9, 6)]
    for path in paths:
        os.utime(path, (5, 5))
    assert newest_whole(paths) == paths[1]
