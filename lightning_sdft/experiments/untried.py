"""Which combination of a sweep comes next: one that nobody has tried or is trying (extra ``sweep``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from random import Random
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

__all__ = ["ENDED", "NothingLeftError", "Untried"]

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
TAKEN = (*ENDED, TrialState.RUNNING)


class NothingLeftError(RuntimeError):
    """Other processes have taken what was left."""


class Untried(BaseSampler):
    """Combinations without repetition, whatever other processes and earlier commands have tried.

    Optuna's samplers draw on from their seed when a study goes on, and repeat what was tried; that of grids takes a
    trial that failed for one that was made. Ask for all values of a trial while no other process does.

    Args:
        space: Values of each name.
        order: The order of the ``grid``, a ``random`` one, or what ``tpe`` promises most of, if it is left.
    """

    def __init__(self, space: Mapping[str, Sequence[str]], order: Literal["grid", "random", "tpe"]) -> None:
        self.combinations = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
        if order != "grid":
            Random(0).shuffle(self.combinations)
        self.promising = TPESampler(seed=0, constant_liar=True) if order == "tpe" else None  # expect little of others
        self.failed: list[dict[str, Any]] = []

    def left(self, study: optuna.Study, trial: FrozenTrial | None = None) -> list[dict[str, str]]:
        """What was not tried, with the values that a trial has already; a failure counts as long as this process."""
        trials = study.get_trials(deepcopy=False, states=TAKEN)
        taken = [each.params for each in trials if trial is None or each.number != trial.number] + self.failed
        known = {} if trial is None else trial.params
        return [each for each in self.combinations if each not in taken and known.items() <= each.items()]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn before it is asked for."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, see above."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of a name that leads to a combination that is left.

        Raises:
            NothingLeftError: If there is none.
        """
        values = [each[param_name] for each in self.left(study, trial)]
        if not values:
            raise NothingLeftError("nothing is left to try")
        if self.promising is not None:
            promised = self.promising.sample_independent(study, trial, param_name, param_distribution)
            values = [promised] if promised in values else values
        return values[0]
