"""What methods keep where they have learned equally much, read from the validations of their runs.

A method that has learned little has forgotten little. So two methods are compared where both have the same accuracy on
the new task: the lower of the two that they end with. One of them is at its end there, and the other is on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import mean
from typing import Any

from lightning_sdft.experiments.evidence.result import Point, Result
from lightning_sdft.experiments.report.intervals import Mean

__all__ = ["Matched", "kept_at", "matched"]


@dataclass(frozen=True)
class Matched:
    """What two methods keep at equal accuracy on the new task.

    Args:
        domain: What they learned.
        method: The method.
        against: The other one.
        measure: The prior task, or the mean over all.
        level: Accuracy on the new task, validation split, mean over seeds.
        kept: What the method keeps of the prior task, mean over seeds.
        other: What the other one keeps.
        differences: The difference of each seed.
        half_width: Half of Student's 95% interval of the difference over seeds, which one seed does not have.
    """

    domain: str
    method: str
    against: str
    measure: str
    level: float
    kept: float
    other: float
    differences: Sequence[float]
    half_width: float | None

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {**asdict(self), "difference": self.kept - self.other}


def matched(results: Sequence[Result], others: Sequence[Result], measure: str) -> Matched | None:
    """Compare two methods on a domain at equal accuracy; ``None`` if no seed's validations allow it.

    Args:
        results: The results of the method, one for each seed.
        others: Those of the other one.
        measure: The prior task, or the mean over all.
    """
    against = {each.seed: each for each in others}
    rows = []
    for result in results:
        other = against.get(result.seed)
        if other is None:
            continue
        ways = [[point for point in each.way if measure in point.kept] for each in (result, other)]
        if not all(ways):
            continue
        level = min(way[-1].new for way in ways)
        kept = [kept_at(way, level, measure) for way in ways]
        if None not in kept:
            rows.append((level, *kept))
    if not rows:
        return None
    levels, mine, theirs = (list(column) for column in zip(*rows, strict=True))
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    names = results[0].domain, results[0].method, others[0].method, measure
    return Matched(*names, mean(levels), mean(mine), mean(theirs), differences, Mean.of(differences).half_width)


def kept_at(way: Sequence[Point], level: float, measure: str) -> float | None:
    """What was kept when the accuracy on the new task first was at a level, between validations along a line.

    Args:
        way: The validations of the measure; the first is where training began.
        level: The accuracy on the new task.
        measure: The prior task, or the mean over all.
    """
    for before, after in pairwise(way):
        low, high = sorted((before.new, after.new))
        if low <= level <= high:
            share = 0.0 if before.new == after.new else (level - before.new) / (after.new - before.new)
            return before.kept[measure] + share * (after.kept[measure] - before.kept[measure])
    return way[-1].kept[measure] if way and way[-1].new == level else None
