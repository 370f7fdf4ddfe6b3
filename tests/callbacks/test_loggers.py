"""What loggers get that is no number, from a real run; the packages of most are optional (`make test-loggers`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import AnswerTable, HyperparameterSummary, RolloutTable, TradeOffPicture
from lightning_sdft.callbacks.loggers import log_picture, log_table, log_text
from lightning_sdft.callbacks.run_logger import FIRST, LAST
from lightning_sdft.callbacks.tables import Cell
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from tests.modules.test_answering import evaluation_sets

ROWS = [[Cell("plain", "**bold**"), Cell.of("1")]]
PIXELS = np.zeros((2, 3, 3), dtype=np.uint8)


class Collecting(CSVLogger):
    """A logger that takes tables and pictures, as that of Weights & Biases does."""

    def log_table(self, **table: Any) -> None:
        self.table = table

    def log_image(self, **image: Any) -> None:
        self.image = image


def trainer_of(*loggers: Logger, first: bool = True) -> Any:
    return SimpleNamespace(is_global_zero=first, loggers=loggers, global_step=7)


def test_first_process_logs_to_whatever_takes_tables(tmp_path: Path) -> None:
    board, other = TensorBoardLogger(tmp_path, name="a", version=""), Collecting(tmp_path, name="b")
    log_table(trainer_of(board, other, CSVLogger(tmp_path)), "name", ["x", "y"], ROWS, note="*note*")
    log_table(trainer_of(board, other, first=False), "never", ["x", "y"], ROWS)
    log_picture(trainer_of(board, other), f"{FIRST}picture", PIXELS)
    board.finalize("success")
    events = EventAccumulator(board.log_dir, size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("name/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert (event.step, text) == (7, "*note*\n\n| x | y |\n| --- | --- |\n| **bold** | 1 |")
    assert other.table == {"key": "name", "columns": ["x", "y"], "data": [["plain", "1"]], "step": 7}
    assert "never/text_summary" not in events.Tags()["tensors"]
    assert events.Tags()["images"] == [f"{FIRST}picture"]
    assert other.image == {"key": "picture", "images": [PIXELS], "step": 7}


def test_texts_are_markdown_in_tensorboard_alone(tmp_path: Path) -> None:
    board, other = TensorBoardLogger(tmp_path, name="a", version=""), Collecting(tmp_path, name="b")
    log_text(trainer_of(board, other), f"{LAST}config", "a: 1", "`a: 1`")
    board.finalize("success")
    (event,) = EventAccumulator(board.log_dir).Reload().Tensors(f"{LAST}config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "`a: 1`"
    assert other.table == {"key": "config", "columns": ["text"], "data": [["a: 1"]], "step": 7}


@pytest.fixture
def train(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any) -> Callable[[Logger], None]:
    """Train a tiny model with all that logs more than numbers."""

    def run(logger: Logger) -> None:
        callbacks = [RolloutTable(), AnswerTable(), TradeOffPicture(), HyperparameterSummary()]
        options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
        trainer = make_trainer(callbacks=callbacks, logger=logger, log_every_n_steps=1, **options)
        sets = evaluation_sets(words_module(SFTModule), {"new": 3, "old": 4})
        trainer.fit(words_module(SDFTModule), datamodule=words_data(validation=sets))
        log_text(trainer, f"{LAST}config", "a: 1")

    return run


def test_weights_and_biases_has_tables_pictures_and_settings(
    train: Callable[[Logger], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    train(logger)
    run = logger.experiment
    assert (run.config["method"], run.config["data.batch_size"]) == ("SDFTModule", 4)
    assert {"train/loss", "val/accuracy", "prior/average"} <= set(dict(run.summary))
    folder = Path(run.dir) / "media"
    wandb.finish()
    tables = {path.relative_to(folder / "table").as_posix().split("_")[0]: path for path in folder.rglob("*.json")}
    assert set(tables) == {"rollouts", "answers/new", "what it could do before/old", "config"}
    content = json.loads(tables["answers/new"].read_text())
    assert content["columns"][0] == "right"
    assert len(content["data"]) == 4
    pictures = [path.name for path in folder.rglob("*.png")]
    assert len(pictures) == 1
    assert pictures[0].startswith("trade-off")


def test_mlflow_has_tables_pictures_and_settings(train: Callable[[Logger], None], tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MLFlowLogger(tracking_uri=address, artifact_location=str(tmp_path / "artifacts"))
    train(logger)
    run = logger.experiment.get_run(logger.run_id)
    assert (run.data.params["method"], run.data.params["data.batch_size"]) == ("SDFTModule", "4")
    assert {"train/loss", "val/accuracy", "prior/average"} <= set(run.data.metrics)
    folder = tmp_path / "artifacts" / logger.run_id / "artifacts"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files >= {"rollouts/step000001.json", "answers/new/step000004.json", "config/step000004.txt"}
    assert files >= {"what it could do before/old/step000004.json"}
    assert any(file.startswith("trade-off") and file.endswith("/step000004.png") for file in files)
    content = json.loads((folder / "answers/new/step000004.json").read_text())
    assert content["columns"][0] == "right"
    assert len(content["data"]) == 4
