from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import BaseComparison
from lightning_sdft.callbacks.base_comparison import comparison_table
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.modules.conftest import question
from tests.modules.test_answering import evaluation_sets


def rendered(*arguments: Any) -> list[list[str]]:
    console = Console(width=100, file=StringIO())
    console.print(comparison_table(*arguments))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in lines]


def test_table_lists_new_skills_then_prior_ones_then_the_means() -> None:
    base = {"prior/b": 1.0, "val/accuracy/a": 0.25, "val/accuracy": 0.25, "prior/average": 1.0, "prior/c": 1.0}
    trained = {"prior/b": 0.5, "val/accuracy/a": 1.0, "val/accuracy": 1.0, "prior/average": 0.75, "prior/c": 1.0}
    trained |= {"val/accuracy_low/a": 0.9, "val/accuracy_high/a": 1.0, "prior_low/b": 0.4, "prior_high/b": 0.6}
    trained |= {"val/accuracy_low": 0.875, "val/accuracy_high": 1.0, "prior_low/average": 0.7}
    trained |= {"prior_high/average": 0.8}
    rows = rendered(base, trained, "SFTModule", 7)
    assert rows[0] == ["SFTModule after 7 steps"]
    assert [row for row in rows if len(row) == 5] == [
        ["accuracy", "base", "trained", "95%", "change"],
        ["new: a", "0.250", "1.000", "0.900 to 1.000", "+0.750"],
        ["prior: b", "1.000", "0.500", "0.400 to 0.600", "-0.500"],
        ["prior: c", "1.000", "1.000", "-", "+0.000"],
        ["new task", "0.250", "1.000", "0.875 to 1.000", "+0.750"],
        ["average of prior skills", "1.000", "0.750", "0.700 to 0.800", "-0.250"],
    ]


def test_losses_are_listed_too_and_alone_where_nothing_is_graded() -> None:
    base = {"val/loss/a": 2.0, "val/loss": 2.0, "prior_loss/b": 1.0, "prior_loss/average": 1.0}
    trained = {"val/loss/a": 1.5, "val/loss": 1.5, "prior_loss/b": 1.25, "prior_loss/average": 1.25}
    rows = [
        ["loss, new: a", "2.000", "1.500", "-", "-0.500"],
        ["loss, prior: b", "1.000", "1.250", "-", "+0.250"],
        ["loss on the new task", "2.000", "1.500", "-", "-0.500"],
        ["average loss on prior skills", "1.000", "1.250", "-", "+0.250"],
    ]
    head, *listed = [row for row in rendered(base, trained, "SFTModule", 7) if len(row) == 5]
    assert (head[0], listed) == ("loss, nats per token", rows)
    head, *listed = [row for row in rendered({}, {"val/accuracy/c": 1.0, **trained}, "SFTModule", 7) if len(row) == 5]
    assert (head[0], [row[0] for row in listed]) == ("accuracy", ["new: c", *(row[0] for row in rows)])


def test_set_that_the_base_was_not_evaluated_on_has_no_change() -> None:
    assert ["new: a", "-", "1.000", "-", "-"] in rendered({}, {"val/accuracy/a": 1.0}, "SFTModule", 1)


@pytest.fixture
def sets(words_module: Callable[..., CausalLMModule]) -> list[EvaluationSet]:
    """A new skill of which the base can 3 of 4, and a prior one that it can."""
    return evaluation_sets(words_module(SFTModule), {"new": 3, "old": 4})


def test_a_run_without_references_compares_losses(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = words_data(validation=[EvaluationSet([question(20)], {}, title="free")])
    trainer = make_trainer(callbacks=[BaseComparison()], limit_val_batches=1.0, num_sanity_val_steps=-1, max_epochs=1)
    trainer.fit(words_module(SFTModule), datamodule=data)
    assert "loss on the new task" in capsys.readouterr().out


class Spoil(Callback):
    """Makes the trained model write nothing but end tokens."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for parameter in pl_module.policy.parameters():
            parameter.data.zero_()


BASE = {"val/accuracy": 0.75, "val/accuracy/new": 0.75, "prior/old": 1.0, "prior/average": 1.0}


def test_sanity_check_gives_the_base_and_the_last_validation_the_trained_model(
    sets: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    comparison, logger = BaseComparison(), CSVLogger(tmp_path)
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
    trainer = make_trainer(callbacks=[comparison, Spoil()], logger=logger, **options)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    assert {name: comparison.base[name] for name in BASE} == pytest.approx(BASE)
    assert comparison.state_dict()["base"] == comparison.base
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "SFTModule after 4 steps" in lines
    assert "new task 0.750 0.000 0.000 to 0.000 -0.750" in lines
    assert "average of prior skills 1.000 0.000 0.000 to 0.000 -1.000" in lines

    header, first, *_ = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    point = dict(zip(header.split(","), first.split(","), strict=True))
    assert point["step"] == "0"
    assert {name: float(point[name]) for name in BASE} == pytest.approx(BASE)


def test_checkpoint_holds_the_last_validation_and_nothing_that_was_measured_before(
    sets: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 2, "max_steps": -1}
    comparison = BaseComparison()
    trainer = make_trainer(callbacks=[comparison, Prior(), Spoil()], **options)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["BaseComparison"]
    assert state["step"] == trainer.global_step == 8
    assert {name: state["trained"][name] for name in BASE} == dict.fromkeys(BASE, 0.0)
    assert state["trained"]["val/accuracy_high"] == 0.0
    assert "prior/task" in state["base"]
    assert "prior/task" not in state["trained"]
    other = BaseComparison()
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_checkpoint_before_the_first_validation_holds_the_base_alone(
    sets: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    comparison = BaseComparison()
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_steps": 1}
    make_trainer(callbacks=[comparison], **options).fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    state = comparison.state_dict()
    assert (state["trained"], state["step"]) == ({}, 0)
    assert state["base"]


class Prior(Callback):
    """Evaluates prior tasks by itself, before and after training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.callback_metrics["prior/task"] = torch.tensor(0.25)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.callback_metrics["prior/task"] = torch.tensor(0.125)


def test_base_accuracies_of_other_callbacks_are_compared_too(
    sets: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}
    trainer = make_trainer(callbacks=[BaseComparison(), Prior()], **options)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "prior: task 0.250 0.125 - -0.125" in lines


def test_resumed_run_still_compares_with_the_base(
    sets: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_steps": -1}
    first = make_trainer(callbacks=[BaseComparison(), Spoil()], max_epochs=1, **options)
    first.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    first.save_checkpoint(tmp_path / "one.ckpt")
    capsys.readouterr()
    comparison = BaseComparison()
    resumed = make_trainer(callbacks=[comparison, Spoil()], max_epochs=2, **options)
    data = words_data(validation=sets)
    resumed.fit(words_module(SFTModule), datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    assert {name: comparison.base[name] for name in BASE} == pytest.approx(BASE)
    assert "SFTModule after 8 steps" in capsys.readouterr().out


def test_without_validation_it_says_nothing(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_trainer(callbacks=[BaseComparison()], max_steps=1).fit(words_module(SFTModule), datamodule=words_data())
    assert "accuracy" not in capsys.readouterr().out


def test_base_is_a_line_of_its_own(
    sets: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="run", version="")
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 2, "max_steps": -1}
    trainer = make_trainer(callbacks=[BaseComparison(), Spoil()], logger=logger, **options)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    points = EventAccumulator(logger.log_dir).Reload().Scalars("val/base_accuracy")
    assert [(point.step, point.value) for point in points] == [(0, 0.75), (4, 0.75), (8, 0.75)]
