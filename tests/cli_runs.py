"""Short runs of the laptop model by its command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.trust import trusting

__all__ = ["DATA", "MODEL", "TRAINER", "Losses", "config", "config_file", "losses", "trusted"]


MODEL = {
    "model": "zoo/laptop",
    "pretrained": False,
    "max_prompt_tokens": 16,
    "max_completion_tokens": 8,
    "max_teacher_prompt_tokens": 64,
    "teacher_template": LAPTOP_TEMPLATE,
    "skip_tokens": 0,
    "learning_rate": 1e-3,
}
DATA = {"train_size": 32, "validation_size": 4, "test_size": 4, "prior_size": 4, "batch_size": 8}
TRAINER = {
    "accelerator": "cpu",
    "max_steps": 3,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "gradient_clip_val": 1.0,  # as in the base of configs
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Losses(Callback):
    """Collects the losses of a run."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def config(**trainer: Any) -> dict[str, Any]:
    callbacks = [
        {"class_path": "EMATeacher", "init_args": {"teacher_rate": 0.1}},
        {"class_path": "tests.cli_runs.Losses"},
        {"class_path": "ModelCheckpoint", "init_args": {"save_last": "link"}},
        {"class_path": "PredictionWriter"},
    ]
    return {
        "seed_everything": 3,
        "model": {"class_path": "SDFTModule", "init_args": MODEL},
        "data": {"class_path": "StringSkillsDataModule", "init_args": DATA},
        "trainer": {**TRAINER, "callbacks": callbacks, **trainer},
    }


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Configs may name the classes of this file."""
    with trusting("tests"):
        yield


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "run", "version": ""}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config(logger=logger)))
    return path


def losses(trainer: Trainer) -> list[float]:
    return next(callback.values for callback in trainer.callbacks if isinstance(callback, Losses))  # type: ignore[attr-defined]
