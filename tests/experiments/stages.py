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
    skills: Sequence[str] = SKILLS,
) -> Stage:
    """A stage of four optimizer steps with curves that begin and end at what its accuracies are."""
    skill = None if number == 0 else skills[number - 1]
    if error is not None:
        return Stage(Chain(method, rate, seed), number, skill, error=error)
    values = dict(zip(skills, accuracies, strict=True))
    curves = {name: {2: value / 2, 4: value} for name, value in values.items()}
    prior = {"copy": 1.0, "average": 0.75}
    return Stage(Chain(method, rate, seed), number, skill, values, validation, prior, curves, 4, 1.5, 300.0)


def sequence(
    method: str,
    rate: float,
    seed: int,
    matrix: Sequence[Sequence[float]],
    validation: float = 0.5,
    skills: Sequence[str] = SKILLS,
) -> list[Stage]:
    """The base model and a stage for each skill."""
    base = stage(BASE, None, seed, 0, matrix[0], skills=skills)
    numbers = range(1, len(skills) + 1)
    return [base, *(stage(method, rate, seed, each, matrix[each], validation, skills=skills) for each in numbers)]
