from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.callbacks import AnswerTable
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.modules.test_answering import evaluation_sets

RIGHT, PROMPT, _, BASE, BASE_RIGHT, REFERENCE, EXAMPLE = range(7)
"""The columns."""

OPTIONS = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1, "max_epochs": 1, "max_steps": -1}


class Spoil(Callback):
    """Makes the trained model write nothing but end tokens."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for parameter in pl_module.policy.parameters():
            parameter.data.zero_()


class Judged(ExactMatch):
    """A grader that would have to ask a model."""

    asks_a_model = True


@pytest.fixture
def sets(words_module: Callable[..., CausalLMModule]) -> list[EvaluationSet]:
    """A new skill of which the base can 2 of 4, and a prior one that it can."""
    return evaluation_sets(words_module(SFTModule), {"new": 2, "old": 4})


@pytest.fixture
def logger(tmp_path: Path) -> TensorBoardLogger:
    return TensorBoardLogger(tmp_path, name="run", version="")


def tables(logger: TensorBoardLogger) -> dict[str, list[list[str]]]:
    """The cells of the last table of each name."""
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    return {
        tag.removesuffix("/text_summary"): [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in events.Tensors(tag)[-1].tensor_proto.string_val[0].decode().splitlines()[2:]
        ]
        for tag in events.Tags()["tensors"]
    }


def test_wrong_answers_come_first_beside_those_of_the_base(
    sets: Any,
    logger: TensorBoardLogger,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    right, wrong = sets[0].examples[1], sets[0].examples[3]
    trainer = make_trainer(callbacks=[AnswerTable(questions=3), Spoil()], logger=logger, **OPTIONS)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets, evaluation_batch_size=2))
    shown = tables(logger)
    assert set(shown) == {"answers/new", "what it could do before/old"}
    rows = shown["answers/new"]
    assert len(rows) == 3
    assert [row[RIGHT] for row in rows] == ["no"] * 3
    assert [row[BASE_RIGHT] for row in rows] == ["yes", "yes", "no"]  # what the base had right comes first
    row = next(row for row in rows if row[EXAMPLE] == right.id)
    assert row[PROMPT] == right.prompt[-1]["content"]
    assert row[BASE] == row[REFERENCE] == right.reference
    assert wrong.id not in [row[EXAMPLE] for row in rows]  # the fourth


def test_right_answers_come_last_and_rows_are_few(
    sets: Any,
    logger: TensorBoardLogger,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    trainer = make_trainer(callbacks=[AnswerTable(rows=3)], logger=logger, **OPTIONS)
    trainer.fit(words_module(SFTModule, learning_rate=0.0), datamodule=words_data(validation=sets))
    assert [row[RIGHT] for row in tables(logger)["answers/new"]] == ["no", "no", "yes"]
    assert [row[RIGHT] for row in tables(logger)["what it could do before/old"]] == ["yes"] * 3


def test_no_model_is_asked_for_verdicts(
    sets: Any,
    logger: TensorBoardLogger,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    judged = [EvaluationSet(sets[0].examples, {"new": Judged()})]
    trainer = make_trainer(callbacks=[AnswerTable()], logger=logger, **OPTIONS)
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=judged))
    assert {row[RIGHT] for row in tables(logger)["answers/new"]} == {"not graded"}


def test_resumed_run_still_shows_the_answers_of_the_base(
    sets: Any,
    logger: TensorBoardLogger,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    first = make_trainer(callbacks=[AnswerTable(), Spoil()], **OPTIONS)
    first.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    first.save_checkpoint(tmp_path / "one.ckpt")
    resumed = make_trainer(callbacks=[AnswerTable(), Spoil()], logger=logger, **{**OPTIONS, "max_epochs": 2})
    data = words_data(validation=sets)
    resumed.fit(words_module(SFTModule), datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    rows = tables(logger)["answers/new"]
    assert [row[BASE_RIGHT] for row in rows] == ["yes", "yes", "no", "no"]
    assert {row[RIGHT] for row in rows} == {"no"}


def test_without_a_sanity_check_there_is_no_base(
    sets: Any,
    logger: TensorBoardLogger,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    trainer = make_trainer(callbacks=[AnswerTable()], logger=logger, **{**OPTIONS, "num_sanity_val_steps": 0})
    trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets))
    assert {(row[BASE], row[BASE_RIGHT]) for row in tables(logger)["answers/new"]} == {("-", "-")}
