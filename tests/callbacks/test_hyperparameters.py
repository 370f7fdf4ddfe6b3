from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from lightning_sdft.callbacks import HyperparameterSummary
from lightning_sdft.callbacks.hyperparameters import flatten
from lightning_sdft.losses import JensenShannon
from lightning_sdft.modules import CausalLMModule, SDFTModule


def test_flattens_to_what_tensorboard_shows() -> None:
    values = {"a": 1, "b": {"c": 2.5, "d": {"e": True}}, "f": None, "g": [1, 2], "_h": 3, "i": "text"}
    flat = {"x.a": 1, "x.b.c": 2.5, "x.b.d.e": True, "x.f": "None", "x.g": "[1, 2]", "x.i": "text"}
    assert flatten(values, "x.") == flat


def test_arguments_and_metrics_are_in_tensorboard(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="", default_hp_metric=False)
    module = words_module(SDFTModule, divergence=JensenShannon(0.3), learning_rate=0.004)
    trainer = make_trainer(callbacks=[HyperparameterSummary()], logger=logger, max_steps=1, log_every_n_steps=1)
    trainer.fit(module, datamodule=words_data())

    events = EventAccumulator(logger.log_dir).Reload()
    content = plugin_data_pb2.HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    )
    shown = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in content.session_start_info.hparams.items()
    }
    expected = {
        "method": "SDFTModule",
        "learning_rate": 0.004,
        "skip_tokens": 0,
        "divergence": "JensenShannon(beta=0.3)",
        "data": "WordsDataModule",
        "data.batch_size": 4,
    }
    assert {name: shown[name] for name in expected} == expected
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/experiment"].plugin_data.content
    ).experiment
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["val/accuracy", "prior/average", "train/loss"]
    assert events.Scalars("train/loss")[-1].value == trainer.callback_metrics["train/loss"].item()
