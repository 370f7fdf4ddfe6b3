"""What skills that are learned one after another allow to say: at the end of a sequence, and in each of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

from lightning_sdft.experiments.chains import Stage
from lightning_sdft.experiments.evidence.result import Point, Result, prior_curves, way
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.run import ACCURACY, PRIOR

__all__ = ["EARLIER", "SEQUENCE", "end_of_sequence", "stages_on_their_way"]

SEQUENCE = "the whole sequence"
"""The only domain of skills that are learned one after another: all of them, at the end."""

EARLIER = "earlier skills"
"""Measure: the mean over the skills that were learned before, if there are several."""


def end_of_sequence(stage: Stage, method: str, runs: Path) -> Result:
    """The result of a sequence.

    Args:
        stage: Its last stage, or the base model.
        method: The method, or ``base``.
        runs: Folder of the runs.
    """
    metrics = {f"{ACCURACY}/{skill}": value for skill, value in stage.accuracies.items()}
    metrics |= {
        ACCURACY: mean(stage.accuracies.values()),
        **{f"{PRIOR}{name}": each for name, each in stage.prior.items()},
    }
    verdicts = Details.read(stage.folder(runs)).verdicts
    return Result.of(SEQUENCE, method, stage.chain.seed, metrics, Details(verdicts))


def stages_on_their_way(stages: Sequence[Stage], runs: Path) -> list[Result]:
    """The validations of each stage: its skill as what is new, earlier skills and prior tasks as what is kept.

    The way of a stage begins with the last validation of the stage before.

    Args:
        stages: A whole sequence, with its base model first.
        runs: Folder of the runs.
    """
    curves = [Details.read(stage.folder(runs)).curves for stage in stages]
    skills = [str(stage.skill) for stage in stages[1:]]
    found = []
    for number, (before, here) in enumerate(pairwise(curves), start=1):
        learned = skills[:number]
        began = _way(before, learned)[-1:]
        chain = stages[number].chain
        domain = f"stage {number}, {learned[-1]}"
        found.append(Result(domain, chain.method, chain.seed, {}, way=[*began, *_way(here, learned)]))
    return found


def _way(curves: Mapping[str, Mapping[int, float]], learned: Sequence[str]) -> list[Point]:
    *earlier, new = (curves.get(f"val/accuracy/{skill}", {}) for skill in learned)
    kept = dict(zip(learned, earlier, strict=False))
    if len(earlier) > 1:
        steps = set.intersection(*(set(each) for each in earlier))
        kept[EARLIER] = {step: mean(each[step] for each in earlier) for step in steps}
    return way(new, {**kept, **prior_curves(curves)})
