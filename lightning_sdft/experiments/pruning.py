"""Lets a sweep stop runs early."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    import optuna

__all__ = ["PRUNED", "PRUNING", "OptunaPruning", "connect", "hand_over"]

PRUNED = "pruned"
"""File in the folder of a run that was stopped early."""

PRUNING = "lightning_sdft.experiments.pruning.OptunaPruning"

TRIAL = "trial.json"
STEPS_APART = 10**9
SECONDS_BETWEEN_HEARTBEATS = 30
SECONDS_OF_GRACE = 120


def connect(out: Path) -> optuna.storages.RDBStorage:
    """The storage of a sweep's study, which notices trials whose process has died."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            f"sqlite:///{out / 'study.db'}",
            engine_kwargs={"connect_args": {"timeout": SECONDS_OF_GRACE}},  # wait for other writers
            heartbeat_interval=SECONDS_BETWEEN_HEARTBEATS,
            grace_period=SECONDS_OF_GRACE,
        )


def hand_over(trial: optuna.Trial, folders: Iterable[Path]) -> None:
    """Tell the runs of a trial, one per seed, which trial they belong to.

    A file of its own tells them, because a run's configs must not depend on the trial. Each run reports its steps in a
    range of its own, so that it is compared only with runs of the same seed.
    """
    for index, folder in enumerate(folders):
        record = {"out": str(folder.parents[2]), "trial": trial._trial_id, "first_step": index * STEPS_APART}
        (folder / TRIAL).write_text(json.dumps(record), encoding="utf-8")


class OptunaPruning(Callback):
    """Reports the validation accuracy to the sweep that a run is part of, and stops the run if the sweep says so.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, unless it is the sanity check, or no answers are graded, which the sweep refuses in the end."""
        if trainer.sanity_checking or "val/accuracy" not in trainer.callback_metrics:
            return
        stop = self._report(trainer) if trainer.is_global_zero else False
        if trainer.strategy.broadcast(stop):
            trainer.should_stop = True

    def _report(self, trainer: Trainer) -> bool:
        """Tell the sweep, and ask whether to stop."""
        import optuna

        record = json.loads((self.folder / TRIAL).read_text())
        storage, pruner = connect(Path(record["out"])), optuna.pruners.MedianPruner()
        study = optuna.load_study(study_name="sweep", storage=storage, pruner=pruner)
        trial = optuna.Trial(study, record["trial"])
        trial.report(float(trainer.callback_metrics["val/accuracy"]), record["first_step"] + trainer.global_step)
        stop = trial.should_prune()
        if stop:
            (self.folder / PRUNED).touch()
        return stop
