from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.callbacks import BestCheckpoint, LastCheckpoints
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import CausalLMModule, SFTModule
from tests.modules.conftest import question

FREE = EvaluationSet([question(20), question(21)], {}, title="mine")
GRADED = EvaluationSet([question(20)], {"graded": ExactMatch()})
OLD = EvaluationSet([question(22)], {"old": ExactMatch()}, prior=True)

Fit = Callable[..., Any]


@pytest.fixture
def fit(words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path) -> Fit:
    def fit(
        *sets: EvaluationSet, ckpt_path: str | None = None, watch: Sequence[Callback] = (), **arguments: Any
    ) -> Any:
        callbacks = [*watch, BestCheckpoint(tmp_path), LastCheckpoints(dirpath=tmp_path / "last")]
        places = {"enable_checkpointing": True, "limit_val_batches": 1.0, "val_check_interval": 2}
        trainer = make_trainer(callbacks=callbacks, **places, **{"max_steps": 4, **arguments})
        trainer.fit(words_module(SFTModule), datamodule=words_data(validation=sets), ckpt_path=ckpt_path)
        return trainer

    return fit


def best(trainer: Any) -> BestCheckpoint:
    (found,) = [each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)]
    return found


def test_the_lowest_loss_is_the_best_where_nothing_is_graded(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    losses: list[float] = []

    class Losses(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                losses.append(trainer.callback_metrics["val/loss"].item())

    with caplog.at_level(logging.INFO):
        kept = best(fit(FREE, OLD, watch=[Losses()]))
    assert len(losses) == 4
    assert "Best checkpoint: the one with the lowest val/loss, because there are no references" in caplog.text
    assert (kept.monitor, kept.mode) == ("val/loss", "min")
    assert kept.best_model_score == min(losses)
    assert kept.best_model_path.endswith(f"best-step{losses.index(min(losses)) + 1:06d}.ckpt")


def test_the_highest_accuracy_is_the_best_where_some_answers_are_graded(fit: Fit) -> None:
    kept = best(fit(FREE, GRADED))
    assert (kept.monitor, kept.mode) == ("val/accuracy", "max")
    assert kept.best_model_score == 0


@pytest.mark.parametrize("sets", [[], [OLD]])
def test_nothing_is_the_best_where_nothing_new_is_validated(
    fit: Fit, caplog: pytest.LogCaptureFixture, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    with caplog.at_level(logging.INFO):
        kept = best(fit(*sets))
    assert "Best checkpoint: none, because nothing of the new task is validated." in caplog.text
    assert not kept.best_model_path
    assert not list(tmp_path.glob("best*"))
    assert list((tmp_path / "last").glob("step*.ckpt"))


def test_a_run_that_goes_on_knows_the_best_loss(fit: Fit, tmp_path: Path) -> None:
    before = best(fit(FREE, max_steps=2))
    after = best(fit(FREE, max_steps=2, ckpt_path=str(tmp_path / "last" / "last.ckpt")))
    assert after.best_model_score == before.best_model_score
    assert after.best_model_path == before.best_model_path
