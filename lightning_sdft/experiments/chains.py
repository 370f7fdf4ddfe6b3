"""Sequences of stages, and the results of each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from lightning_sdft.experiments.measures import SkillRetention
from lightning_sdft.experiments.plan import Variant, slug
from lightning_sdft.experiments.runs.pool import Failure
from lightning_sdft.experiments.runs.run import ACCURACY, AVERAGE, PRIOR, Outcome, read_curves

__all__ = ["BASE_STAGE", "Chain", "Stage", "best_chains", "retention"]

BASE_STAGE = 0
"""The number of the stage before the first one: the base model."""


@dataclass(frozen=True, order=True)
class Chain:
    """A sequence of stages: a method, its learning rate (the base model has none), and the seed."""

    method: str
    learning_rate: float | None
    seed: int

    @classmethod
    def of(cls, variant: Variant) -> Chain:
        """The sequence that a variant is part of."""
        return cls(variant.method, variant.learning_rate, variant.seed)

    def variant(self, skill: str) -> Variant:
        """The run of this sequence that trains a skill."""
        return Variant(skill, self.method, self.learning_rate, self.seed)

    def folder(self, runs: Path) -> Path:
        """The folder of its stages."""
        rate = [] if self.learning_rate is None else [f"rate-{self.learning_rate:g}"]
        return runs / slug(self.method) / "-".join([*rate, f"seed-{self.seed}"])

    def stage_folder(self, runs: Path, number: int, skill: str | None) -> Path:
        """The folder of one of its stages."""
        return self.folder(runs) / ("base" if skill is None else f"stage-{number}-{slug(skill)}")


@dataclass(frozen=True)
class Stage:
    """A stage and its results, or why it failed.

    Args:
        chain: The sequence.
        number: Number of the stage; 0 is the base model.
        skill: The skill that was trained; ``None`` for the base model.
        accuracies: Accuracy on each skill after the stage, on the test split.
        validation: Mean accuracy over skills at the end of the stage, on the validation split.
        prior: Accuracy on each prior task, on the test split, and their ``average``.
        curves: Accuracy on each skill by optimizer step of the stage, on the validation split.
        steps: Optimizer steps of the stage.
        seconds: Wall-clock time.
        peak_memory: Peak memory in MiB.
        error: Why it failed.
    """

    chain: Chain
    number: int
    skill: str | None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    validation: float | None = None
    prior: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    steps: int = 0
    seconds: float | None = None
    peak_memory: float | None = None
    error: str | None = None

    @classmethod
    def of(
        cls, chain: Chain, number: int, skill: str | None, skills: Sequence[str], what: Outcome | Failure, folder: Path
    ) -> Stage:
        """The row of a stage that has ended."""
        if isinstance(what, Failure):
            return cls(chain, number, skill, error=str(what))
        missing = [each for each in skills if f"{ACCURACY}/{each}" not in what.metrics]
        if missing:
            logged = ", ".join(sorted(name for name in what.metrics if name.startswith(f"{ACCURACY}/")))
            return cls(chain, number, skill, error=f"no accuracy of {missing[0]}, only {logged}; name skills as logged")
        tags = {f"val/accuracy/{each}": each for each in skills}
        return cls(
            chain,
            number,
            skill,
            {each: what.metrics[f"{ACCURACY}/{each}"] for each in skills},
            what.validation_accuracy,
            {name.removeprefix(PRIOR): value for name, value in what.metrics.items() if name.startswith(PRIOR)},
            {tags[tag]: curve for tag, curve in read_curves(folder).items() if tag in tags},
            what.steps,
            what.seconds,
            what.peak_memory,
        )

    def record(self) -> dict[str, Any]:
        """The row as JSON; if a run is repeated, only ``seconds`` and ``peak_memory`` differ."""
        return {
            "method": self.chain.method,
            "seed": self.chain.seed,
            "learning_rate": self.chain.learning_rate,
            "stage": self.number,
            "skill": self.skill,
            "accuracies": dict(self.accuracies),
            "prior": {name: value for name, value in self.prior.items() if name != AVERAGE},
            "prior_average": self.prior.get(AVERAGE),
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
            "validation_accuracy": self.validation,
            "steps": self.steps,
            "curves": {
                skill: {str(step): value for step, value in each.items()} for skill, each in self.curves.items()
            },
            "error": self.error,
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Stage:
        """The row of a record."""
        average = record["prior_average"]
        return cls(
            Chain(record["method"], record["learning_rate"], record["seed"]),
            record["stage"],
            record["skill"],
            record["accuracies"],
            record["validation_accuracy"],
            {**record["prior"], **({} if average is None else {AVERAGE: average})},
            {skill: {int(step): each[step] for step in each} for skill, each in record["curves"].items()},
            record["steps"],
            record["seconds"],
            record["peak_memory"],
            record["error"],
        )

    def folder(self, runs: Path) -> Path:
        """The folder of its run."""
        return self.chain.stage_folder(runs, self.number, self.skill)

    def __str__(self) -> str:
        rate = "" if self.chain.learning_rate is None else f" at {self.chain.learning_rate:g}"
        what = "" if self.skill is None else f", stage {self.number} ({self.skill})"
        name = f"{self.chain.method}{rate}, seed {self.chain.seed}{what}: "
        if self.error is not None:
            return f"{name}FAILED: {self.error}"
        found = [f"{skill} {value:.3f}" for skill, value in self.accuracies.items()]
        prior = [f"prior {self.prior[AVERAGE]:.3f}"] if AVERAGE in self.prior else []
        return f"{name}{', '.join([*found, *prior])}, {self.seconds:.0f} s"


def best_chains(rows: Iterable[Stage]) -> list[list[Stage]]:
    """Whole sequences, each with its base model first, of each method at its best learning rate.

    The best learning rate is the one with the highest validation accuracy at the end. Sequences with a failed stage are
    left out.
    """
    rows = sorted(rows, key=lambda row: row.number)
    base = {row.chain.seed: row for row in rows if row.number == BASE_STAGE and row.error is None}
    last = max((row.number for row in rows), default=0)
    sequences: dict[Chain, list[Stage]] = {}
    for row in rows:
        if row.number != BASE_STAGE and row.error is None and row.chain.seed in base:
            sequences.setdefault(row.chain, [base[row.chain.seed]]).append(row)
    whole = {chain: stages for chain, stages in sequences.items() if len(stages) == last + 1}
    ends: dict[str, dict[float, list[float]]] = {}
    for chain, stages in sorted(whole.items()):
        ends.setdefault(chain.method, {}).setdefault(chain.learning_rate or 0.0, []).append(stages[-1].validation or 0)
    best = {method: max(rates, key=lambda rate: mean(rates[rate])) for method, rates in ends.items()}
    return [stages for chain, stages in sorted(whole.items()) if best[chain.method] == (chain.learning_rate or 0.0)]


def retention(stages: Sequence[Stage], skills: Sequence[str]) -> SkillRetention:
    """The measures of a whole sequence, whose first stage is its base model."""
    return SkillRetention.of([[stage.accuracies[skill] for skill in skills] for stage in stages])
