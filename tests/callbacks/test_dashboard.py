from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from lightning_sdft.callbacks import (
    AnswerTable,
    BaseComparison,
    Dashboard,
    KLToBase,
    PriorTasks,
    RunLogger,
    TeacherWatch,
    TradeOffPicture,
)
from lightning_sdft.callbacks.dashboard import layout
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from tests.modules.conftest import question
from tests.modules.test_answering import evaluation_sets

BOTH = {"learning", "retention", "loss", "speed"}
CATEGORIES = {SDFTModule: BOTH | {"teacher against student", "rollouts"}, SFTModule: BOTH}


def charts(folder: str) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The charts of a run by category and title, and the names of its scalars."""
    events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    parts = {part.title: {chart.title: chart for chart in part.chart} for part in layout.category}
    return parts, set(events.Tags()["scalars"])


def asked(sets: list[EvaluationSet]) -> list[EvaluationSet]:
    """The same sets, with demonstrations for the teacher."""
    return [
        EvaluationSet(
            [Example(one.id, one.prompt, "w26 w27", reference=one.reference) for one in each.examples],
            each.graders,
            prior=each.prior,
        )
        for each in sets
    ]


@pytest.mark.parametrize("kind", [RunLogger, TensorBoardLogger])
@pytest.mark.parametrize("method", [SDFTModule, SFTModule])
def test_every_chart_finds_what_the_run_has_logged(
    method: Any,
    kind: type[TensorBoardLogger],
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    sets = asked(evaluation_sets(words_module(SFTModule), {"new": 3, "old": 4}))
    logger = kind(tmp_path, name="run", version="")
    callbacks = [Dashboard(), BaseComparison(), KLToBase(), *([TeacherWatch(examples=4)] * (method is SDFTModule))]
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
    trainer = make_trainer(callbacks=callbacks, logger=[logger, CSVLogger(tmp_path)], log_every_n_steps=1, **options)
    trainer.fit(words_module(method), datamodule=words_data(validation=sets))

    parts, scalars = charts(logger.log_dir)
    assert set(parts) == CATEGORIES[method]
    for title, chart in ((title, chart) for part in parts.values() for title, chart in part.items()):
        assert found(chart, scalars), title
        for series in chart.margin.series:
            assert {series.value, series.lower, series.upper} <= scalars
    assert [len(chart.margin.series) for chart in parts["learning"].values()] == [2]
    average, each, kl = parts["retention"].values()
    assert average.margin.series[0].value == "prior/average"
    assert found(each, scalars) == {"prior/old", "prior/average"}
    assert found(kl, scalars) == {"val/kl_to_base"}
    (loss,) = parts["loss"].values()
    assert found(loss, scalars) == {"teacher/kl" if method is SDFTModule else "train/nll"}


def test_what_is_not_measured_has_no_chart(words_module: Callable[..., CausalLMModule]) -> None:
    module = words_module(SFTModule)
    assert titles(module) == ["loss", "speed"]
    assert titles(module, KLToBase()) == titles(module, PriorTasks([])) == ["retention", "loss", "speed"]


def titles(module: CausalLMModule, *callbacks: Callback) -> list[str]:
    """The categories of a run."""
    return [part.title for part in layout(str, module, callbacks).category]


def test_losses_take_the_place_of_accuracies_where_nothing_is_graded(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    examples = [question(index) for index in (20, 21)]
    sets = [EvaluationSet(examples[:1], {}, title="new"), EvaluationSet(examples[1:], {}, prior=True, title="old")]
    logger = RunLogger(tmp_path, name="run", version="")
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
    trainer = make_trainer(callbacks=[Dashboard(), AnswerTable(), TradeOffPicture()], logger=logger, **options)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    parts, scalars = charts(logger.log_dir)
    losses = [[found(chart, scalars) for chart in parts[name].values()] for name in ("learning", "retention")]
    assert losses == [[{"val/loss"}], [{"prior_loss/old", "prior_loss/average"}]]
    assert "at a glance/new task, loss" in scalars


def found(chart: Any, scalars: set[str]) -> set[str]:
    """The scalars that a chart shows, by TensorBoard's rules."""
    lines = {name for name in scalars for pattern in chart.multiline.tag if re.match(pattern, name)}
    return lines | {name for series in chart.margin.series for name in (series.value, series.lower)} & scalars
