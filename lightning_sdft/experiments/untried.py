"""Chooses the next combination of a sweep: one that nobody has tried or is trying (extra ``sweep``)."""

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
    """Other processes have taken the combinations that were left."""


class Untried(BaseSampler):
    """Samples combinations that no other process and no earlier command has tried.

    Optuna's own samplers start again from their seed when a study continues, and repeat combinations; its grid sampler
    takes a failed trial for a finished one. Ask for all values of a trial while no other process does.

    Args:
        space: Values of each name.
        order: The order of the ``grid``, a ``random`` one, or the most promising combination by ``tpe``, if it is left.
    """

    def __init__(self, space: Mapping[str, Sequence[str]], order: Literal["grid", "random", "tpe"]) -> None:
        self.combinations = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
        if order != "grid":
            Random(0).shuffle(self.combinations)
        # A constant liar expects little of trials that are still running.
        self.promising = TPESampler(seed=0, constant_liar=True) if order == "tpe" else None
        self.failed: list[dict[str, Any]] = []

    def left(self, study: optuna.Study, trial: FrozenTrial | None = None) -> list[dict[str, str]]:
        """Untried combinations that fit the values of a trial; one that failed in this process counts as tried."""
        trials = study.get_trials(deepcopy=False, states=TAKEN)
        taken = [each.params for each in trials if trial is None or each.number != trial.number] + self.failed
        known = {} if trial is None else trial.params
        return [each for each in self.combinations if each not in taken and known.items() <= each.items()]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no names, so that Optuna draws each value only when it is asked for."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return no values, because the search space above is empty."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of a name that leads to an untried combination.

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
