from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.errors import CheckpointError
from tests.checkpoint.interruption import Fault, FaultError, Fit, fit
from tests.storage.test_lock import another_process, assert_free

__all__ = ["fit"]


def test_a_second_run_in_a_folder_is_told_who_is_there_and_changes_nothing(fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_process(lambda: assert_free(folder)) as child:
        expected = rf"run' is in use: process {child} on {socket.gethostname()} trains there"
        with pytest.raises(CheckpointError, match=expected):
            fit("run", max_steps=1)
        assert os.listdir(folder) == [".lock"]
        fit("run", max_steps=1, fast_dev_run=True)  # which saves nothing
    fit("run", max_steps=1)


def test_a_run_gives_its_folder_back_after_it_has_saved_however_it_ends(fit: Fit, tmp_path: Path) -> None:
    fit("run", max_steps=1)
    with another_process(lambda: assert_free(tmp_path / "run")):
        pass
    seen: list[str] = []

    class Look(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
            seen.append((tmp_path / "run" / ".lock").read_text())
            super()._save_checkpoint(trainer, filepath)

    with pytest.raises(FaultError):
        fit("run", Fault("on_before_backward", 3), Look(tmp_path / "run", "again", save_on_exception=True))
    assert [json.loads(each)["pid"] for each in seen] == [os.getpid()]
    assert not (tmp_path / "run" / ".lock").exists()
    with another_process(lambda: assert_free(tmp_path / "run")):
        pass
