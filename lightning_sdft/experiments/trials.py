"""The trials of a sweep, which several processes may share (extra ``sweep``)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.pruning import connect
from lightning_sdft.experiments.runs.run import claimed
from lightning_sdft.experiments.runs.signals import ending_runs_first
from lightning_sdft.experiments.search import Sweep
from lightning_sdft.experiments.untried import ENDED, NothingLeftError, Untried

__all__ = ["SETTINGS", "open_study", "text", "try_all"]

SETTINGS = "settings"
"""Attribute of a trial with the settings that it has chosen; a trial without it has not begun."""

SECONDS_BETWEEN_LOOKS = 1


def open_study(sweep: Sweep, sampler: Untried) -> optuna.Study:
    """The study of a sweep: a new one, or the one that earlier commands have left.

    Raises:
        SettingError: If it belongs to another sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=connect(sweep.out),
        study_name="sweep",
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner() if sweep.pruning else optuna.pruners.NopPruner(),
        direction="maximize",
        load_if_exists=True,
    )
    for name, value in sweep.identity().items():
        known = study.user_attrs.get(name, value)
        if known != value:
            raise SettingError(f"{sweep.out} has a sweep with other {name}, {known}; give another --out")
        study.set_user_attr(name, value)
    return study


def try_all(study: optuna.Study, sweep: Sweep, sampler: Untried, total: int, jobs: int) -> None:
    """Try combinations until ``total`` have ended, including those of earlier commands and other processes.

    A combination that fails is not tried again by this command.

    Raises:
        SettingError: If no trial has ended well.
    """
    failures: list[str] = []

    def left() -> int:
        return total - len(_chosen(study, *ENDED, TrialState.RUNNING)) - len(failures)

    def choose(trial: optuna.Trial) -> dict[str, str]:
        with claimed(sweep.out):  # so that no other process chooses at the same time
            if left() < 1:
                raise NothingLeftError
            labels = {name: str(trial.suggest_categorical(name, values)) for name, values in sweep.space.items()}
            settings = {key: value for name in labels for key, value in sweep.settings(name, labels)}
            trial.set_user_attr(SETTINGS, settings)
        return labels

    def objective(trial: optuna.Trial) -> float:
        try:
            labels = choose(trial)
        except NothingLeftError:
            study.stop()
            raise
        try:
            return sweep.objective(trial, labels)
        except RuntimeError as error:
            failures.append(str(error))
            sampler.failed.append(labels)
            print(f"FAILED: {error}", flush=True)
            raise

    def show(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state in ENDED:
            done = f"[{len(_chosen(study, *ENDED))}/{total}]"
            print(f"{done} {text(trial.user_attrs[SETTINGS])}: {_result(trial)}", flush=True)

    sweep.lines.total = left() * len(sweep.seeds)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
        if left() > 0:
            with ending_runs_first():
                study.optimize(objective, n_trials=left(), n_jobs=jobs, callbacks=[show], catch=(RuntimeError,))
        elif _chosen(study, TrialState.RUNNING):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # other processes are at work, and may die
        else:
            break
    if not _chosen(study, TrialState.COMPLETE):
        raise SettingError(f"no trial has ended well; {failures[0] if failures else 'all were stopped early'}")


def text(settings: Mapping[str, Any]) -> str:
    """Settings as a short text."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items())


def _chosen(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials of these states that have chosen a combination."""
    return [each for each in study.get_trials(deepcopy=False, states=states) if SETTINGS in each.user_attrs]


def _result(trial: FrozenTrial) -> str:
    value = "no accuracy" if trial.value is None else f"{trial.value:.3f}"
    return f"{value}, stopped early" if trial.state == TrialState.PRUNED else value
