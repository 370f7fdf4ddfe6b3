"""Stages of sequences, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sdft.experiments.chains import Chain, Stage
from lightning_sdft.experiments.plan import BASE

SKILLS = ["a", "b"]


def stage(
    method: str,
    rate: float | None,
    seed: int,
    number: int,
    accuracies: Sequence[float],
    validation: float = 0.5,
    error: str | None = None,
) -> Stage:
    """A stage of four optimizer steps with curves that begin and end at what its accuracies are."""
    skill = None if number == 0 else SKILLS[number - 1]
    if error is not None:
        return Stage(Chain(method, rate, seed), number, skill, error=error)
    values = dict(zip(SKILLS, accuracies, strict=True))
    curves = {name: {2: value / 2, 4: value} for name, value in values.items()}
    prior = {"copy": 1.0, "average": 0.75}
    return Stage(Chain(method, rate, seed), number, skill, values, validation, prior, curves, 4, 1.5, 300.0)


def sequence(
    method: str, rate: float, seed: int, matrix: Sequence[Sequence[float]], validation: float = 0.5
) -> list[Stage]:
    """The base model and two stages."""
    base = stage(BASE, None, seed, 0, matrix[0])
    return [base, *(stage(method, rate, seed, number, matrix[number], validation) for number in (1, 2))]
