from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks.run_logger import RunLogger, shown_as


@pytest.mark.parametrize(
    "name",
    [
        "epoch",
        "lr-AdamW",
        "memory/peak",
        "val/accuracy_low",
        "val/accuracy_high/science",
        "val/accuracy_ungraded/science",
        "prior_low/average",
        "test/pass_at_8_high/science",
    ],
)
def test_what_few_look_at_comes_last(name: str) -> None:
    assert shown_as(name) == f"~details/{name}"


@pytest.mark.parametrize("name", ["val/accuracy", "prior/low", "train/loss", "time/rollout", "prior/highest_low_score"])
def test_the_rest_keeps_its_name(name: str) -> None:
    assert shown_as(name) == name


def test_what_a_run_is_about_comes_first_too(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="run", version="")
    logger.log_metrics({"val/accuracy": 0.5, "val/accuracy_low": 0.25, "train/loss": 2.0}, step=3)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    found = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {
        "at a glance/new task": [(3, 0.5)],
        "val/accuracy": [(3, 0.5)],
        "~details/val/accuracy_low": [(3, 0.25)],
        "train/loss": [(3, 2.0)],
    }
    assert min(found) == "at a glance/new task"
    assert max(found) == "~details/val/accuracy_low"


def test_curves_do_not_begin_with_what_was_not_measured(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="run", version="", default_hp_metric=False)
    logger.log_hyperparams({"rate": 0.1}, {"val/accuracy": math.nan})
    logger.log_metrics({"val/accuracy": torch.tensor(0.5), "val/length": torch.tensor(math.nan)}, step=3)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert [(point.step, point.value) for point in events.Scalars("val/accuracy")] == [(3, 0.5)]
    assert "val/length" not in events.Tags()["scalars"]
    assert "_hparams_/experiment" in events.summary_metadata
