from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from lightning_sdft.callbacks import LastCheckpoints
from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.checkpoint.interruption import Fault, FaultError

Fit = Callable[..., Trainer]


@pytest.fixture
def fit(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path) -> Fit:
    """A run that goes on from the last checkpoint, if there is one."""

    def run(*callbacks: Callback, max_steps: int = 10, **arguments: Any) -> Trainer:
        saving = LastCheckpoints(**{"every_n_train_steps": 3, "dirpath": tmp_path / "saved", **arguments})
        trainer: Trainer = make_trainer(callbacks=[saving, *callbacks], enable_checkpointing=True, max_steps=max_steps)
        last = tmp_path / "saved" / "last.ckpt"
        path = last.resolve() if last.exists() else None
        trainer.fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=path)
        return trainer

    return run


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, which their names say, and the last of them."""
    paths = sorted(path for path in folder.iterdir() if not path.is_symlink())
    found = [int(load_checkpoint(path)["global_step"]) for path in paths]
    assert [path.name for path in paths] == [f"step{step:06d}.ckpt" for step in found]
    assert (folder / "last.ckpt").resolve() == paths[-1]
    return found


@pytest.mark.parametrize(("keep", "expected"), [(1, [9]), (2, [6, 9]), (3, [3, 6, 9])])
def test_keeps_the_last_ones(keep: int, expected: list[int], fit: Fit, tmp_path: Path) -> None:
    fit(keep=keep)
    assert steps(tmp_path / "saved") == expected


def test_interruptions_leave_nothing_behind(fit: Fit, tmp_path: Path) -> None:
    """Neither what they were interrupted at nor what was gone on from."""
    for call, expected in ((9, [3, 4]), (2, [3, 4]), (6, [4, 6]), (7, [6, 9])):
        with pytest.raises(FaultError):
            fit(Fault("on_train_batch_start", call))
        assert steps(tmp_path / "saved") == expected
    fit(max_steps=14)
    assert steps(tmp_path / "saved") == [9, 12]


def test_what_a_run_goes_on_from_is_not_written_again(fit: Fit, tmp_path: Path) -> None:
    fit(max_steps=3)
    path = tmp_path / "saved" / "step000003.ckpt"
    before = path.stat().st_ino, path.stat().st_mtime_ns
    with pytest.raises(FaultError):
        fit(Fault("on_before_backward", 2))  # between two micro-batches of its first step
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_without_an_interval_it_saves_once_per_epoch(fit: Fit, tmp_path: Path) -> None:
    fit(every_n_train_steps=None)
    assert steps(tmp_path / "saved") == [8, 10]


def test_what_was_there_in_its_name_is_replaced(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "step000003.ckpt").write_bytes(b"torn")
    fit(max_steps=3)
    assert steps(tmp_path / "saved") == [3]
