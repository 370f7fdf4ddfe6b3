from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from lightning_sdft.callbacks import HyperparameterSummary, LastCheckpoints, PriorTasks
from lightning_sdft.callbacks.hyperparameters import flatten, measured
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading import ExactMatch
from lightning_sdft.losses import JensenShannon
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.modules.graded_sets import GradedSets
from lightning_sdft.teacher import EMATeacher
from tests.modules.conftest import question


def test_flattens_to_what_tensorboard_shows() -> None:
    values = {"a": 1, "b": {"c": 2.5, "d": {"e": True}}, "f": None, "g": [1, 2], "_h": 3, "i": "text"}
    flat = {"x.a": 1, "x.b.c": 2.5, "x.b.d.e": True, "x.f": "None", "x.g": "[1, 2]", "x.i": "text"}
    assert flatten(values, "x.") == flat


def test_arguments_and_metrics_are_in_tensorboard(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="", default_hp_metric=False)
    module = words_module(SDFTModule, divergence=JensenShannon(0.3), learning_rate=0.004)
    sets = [
        EvaluationSet([question(20)], {"new": ExactMatch()}),
        EvaluationSet([question(21)], {}, prior=True, title="old"),
    ]
    other = CSVLogger(tmp_path, name="csv", version="")
    callbacks = [HyperparameterSummary(), EMATeacher(0.125)]
    trainer = make_trainer(callbacks=callbacks, logger=[logger, other], max_steps=1, log_every_n_steps=1)
    trainer.fit(module, datamodule=words_data(validation=sets))
    given = yaml.safe_load(Path(other.log_dir, "hparams.yaml").read_text())
    assert (given["method"], given["data.batch_size"], given["teacher_rate"]) == ("SDFTModule", 4, 0.125)

    events = EventAccumulator(logger.log_dir).Reload()
    content = plugin_data_pb2.HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    )
    shown = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in content.session_start_info.hparams.items()
    }
    expected = {
        "1 method": "SDFTModule",
        "2 learning_rate": 0.004,
        "3 batch_size": 4,
        "4 teacher_rate": 0.125,
        "5 model": module.hparams["model"],
        "6 data": "WordsDataModule",
        "skip_tokens": 0,
        "divergence": "JensenShannon(beta=0.3)",
        "data.micro_batch_size": 2,
    }
    assert {name: shown[name] for name in expected} == expected
    assert sorted(shown)[:6] == list(expected)[:6]  # TensorBoard sorts them
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        events.summary_metadata["_hparams_/experiment"].plugin_data.content
    ).experiment
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["val/accuracy", "prior_loss/average", "train/loss"]
    assert events.Scalars("train/loss")[-1].value == trainer.callback_metrics["train/loss"].item()


def test_metrics_are_those_that_the_run_will_have(words_module: Callable[..., CausalLMModule]) -> None:
    module = words_module(SFTModule)
    module.graded = GradedSets([EvaluationSet([question(20)], {}, title="new")])
    assert measured(module, []) == ["val/loss", "train/loss"]
    assert measured(module, [PriorTasks([])]) == ["val/loss", "prior/average", "train/loss"]


@pytest.mark.parametrize(("version", "written"), [("", 0), ("other", 1)])
def test_run_that_goes_on_in_its_folder_has_them_already(
    version: str,
    written: int,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    """Their NaN would be in the middle of the curves."""

    def fit(version: str, steps: int, ckpt_path: Path | None = None) -> Path:
        logger = TensorBoardLogger(tmp_path, name="run", version=version, default_hp_metric=False)
        callbacks = [HyperparameterSummary(), LastCheckpoints()]
        options = {"callbacks": callbacks, "logger": logger, "enable_checkpointing": True, "log_every_n_steps": 1}
        trainer = make_trainer(max_steps=steps, **options)
        trainer.fit(words_module(SFTModule), datamodule=words_data(), ckpt_path=ckpt_path)
        return Path(logger.log_dir)

    folder = fit("", 2)
    before = {path.name for path in folder.iterdir()}
    later = fit(version, 4, folder / "checkpoints" / "step000002.ckpt")
    (events,) = [path for path in later.glob("events*") if later != folder or path.name not in before]
    metrics = EventAccumulator(str(events)).Reload().Scalars("train/loss")
    assert sum(math.isnan(event.value) for event in metrics) == written
    assert [event.step for event in metrics if not math.isnan(event.value)] == [1, 2, 3]
