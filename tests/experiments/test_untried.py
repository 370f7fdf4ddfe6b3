"""Which combination comes next, on studies of Optuna's in memory."""

from __future__ import annotations

from typing import Literal

import pytest

optuna = pytest.importorskip("optuna")

from lightning_sdft.experiments.untried import NothingLeftError, Untried  # noqa: E402

SPACE = {"rate": ["1", "2", "3"], "steps": ["8", "9"]}
EVERY = [{"rate": rate, "steps": steps} for rate in SPACE["rate"] for steps in SPACE["steps"]]
Order = Literal["grid", "random", "tpe"]
optuna.logging.set_verbosity(optuna.logging.ERROR)


def next_of(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    for name, values in SPACE.items():
        trial.suggest_categorical(name, values)
    return trial


@pytest.mark.parametrize("order", ["grid", "random", "tpe"])
def test_each_combination_comes_once_whoever_asks(order: Order) -> None:
    study = optuna.create_study(direction="maximize", sampler=Untried(SPACE, order))
    tried = []
    for number in range(6):
        trial = next_of(study)
        tried.append(trial.params)
        if number % 2:  # others are in progress
            study.tell(trial, float(trial.params["rate"]))
        if number == 2:
            study.sampler = Untried(SPACE, order)  # of another command
    assert sorted(tried, key=str) == sorted(EVERY, key=str)
    assert (tried == EVERY) == (order == "grid")
    with pytest.raises(NothingLeftError):
        next_of(study)


def test_what_was_stopped_early_is_tried_and_what_failed_is_not() -> None:
    study = optuna.create_study(sampler=Untried(SPACE, "grid"))
    states = [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL]
    for state in states:
        study.tell(next_of(study), state=state)
    assert next_of(study).params == EVERY[1]
    assert next_of(study).params == EVERY[2]


def test_what_has_failed_is_left_alone_by_the_command_that_saw_it_fail() -> None:
    sampler = Untried(SPACE, "grid")
    study = optuna.create_study(sampler=sampler)
    sampler.failed.append(EVERY[0])
    assert next_of(study).params == EVERY[1]
    assert sampler.left(study) == EVERY[2:]


def test_tpe_goes_where_it_was_good() -> None:
    """Behind ten trials at random it prefers the values that were best."""
    space = {"rate": [str(value) for value in range(8)], "steps": [str(value) for value in range(8)]}
    study = optuna.create_study(direction="maximize", sampler=Untried(space, "tpe"))
    found = []
    for _ in range(24):
        trial = study.ask()
        rate, _ = (trial.suggest_categorical(name, values) for name, values in space.items())
        found.append(rate)
        study.tell(trial, 1.0 if rate == "3" else 0.0)
    assert found.count("3") >= 6  # of eight; at random it would be three
