"""What a run leaves in TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import BaseComparison, HyperparameterSummary, KLToBase, RolloutTable
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.teacher import EMATeacher
from tests.modules.conftest import question

TRAINING = [
    "train/loss",
    "rollout/length",
    "rollout/truncated",
    "rollout/tokens_per_second",
    "teacher/kl",
    "teacher/agreement",
    "teacher/entropy",
    "student/entropy",
    "teacher/drift",
    "time/rollout",
    "time/teacher",
    "time/student",
    "time/backward",
    "memory/peak",
    "speed/prompts_per_second",
    "speed/share_rollout",
    "speed/share_teacher",
    "speed/share_student",
    "speed/share_backward",
]
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

EVALUATION = ["val/accuracy/new", "val/accuracy", "prior/old", "prior/average", "val/kl_to_base"]


def test_all_metrics_are_logged_at_the_right_steps(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    validation = [
        EvaluationSet([question(20)], {"new": ExactMatch()}),
        EvaluationSet([question(21)], {"old": ExactMatch()}, prior=True),
    ]
    logger = TensorBoardLogger(tmp_path, name="run", version="", default_hp_metric=False)
    callbacks = [EMATeacher(0.1), KLToBase(), RolloutTable(), BaseComparison(), HyperparameterSummary()]
    trainer = make_trainer(
        callbacks=callbacks,
        logger=logger,
        limit_val_batches=1.0,
        num_sanity_val_steps=-1,
        max_steps=-1,
        max_epochs=2,
        log_every_n_steps=2,
    )
    trainer.fit(words_module(SDFTModule), datamodule=words_data(validation=validation))

    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    assert [name for name in events.Tags()["scalars"] if not explained(name)] == []
    assert set(TRAINING) | set(EVALUATION) <= set(events.Tags()["scalars"])
    for name in TRAINING:
        points = [point for point in events.Scalars(name) if not math.isnan(point.value)]
        assert [point.step for point in points] == [1, 3, 5, 7], name  # Lightning counts steps from 0
    for name in EVALUATION:
        points = [point for point in events.Scalars(name) if not math.isnan(point.value)]
        base = [0] if name != "val/kl_to_base" else []  # BaseComparison logs the base model's accuracies
        assert [point.step for point in points] == [*base, 3, 7], name
    assert events.Scalars("teacher/drift")[-1].value > 0
    assert events.Scalars("memory/peak")[-1].value > 100
    assert all(events.Scalars(f"time/{phase}")[-1].value > 0 for phase in ("rollout", "teacher", "student", "backward"))
    shares = [events.Scalars(f"speed/share_{phase}") for phase in ("rollout", "teacher", "student", "backward")]
    for points in zip(*shares, strict=True):
        assert 0 < sum(point.value for point in points) <= 1
    for rate, share, seconds in zip(
        *(events.Scalars(name) for name in ("speed/prompts_per_second", "speed/share_rollout", "time/rollout")),
        strict=True,
    ):
        assert rate.value == pytest.approx(4 * share.value / seconds.value, rel=1e-4)  # 4 prompts a step


def explained(name: str) -> bool:
    """Whether docs/metrics.md says what a metric is; of ends of intervals it names the beginnings."""
    beginning = name.rpartition("/")[0]
    return name == "epoch" or any(f"`{each}`" in PAGE for each in (name, f"{beginning}/NAME", beginning))


def test_what_no_page_explains_is_found() -> None:
    assert explained("prior/copy")
    assert explained("prior_low/copy")
    assert not explained("teacher/mood")
    assert not explained("val/mood")
