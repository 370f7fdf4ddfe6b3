"""The evidence of a comparison from its files, by another way: fractions and loops, and nothing of the package."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

Verdicts = dict[str, bool | None]


def fair_coin(heads: int, tails: int) -> float:
    """The chance of a result that is no more likely than this one."""
    tosses = heads + tails
    chances = [Fraction(comb(tosses, count), 2**tosses) for count in range(tosses + 1)]
    return float(sum((chance for chance in chances if chance <= chances[heads]), Fraction()))


def step_down(p_values: list[float]) -> list[float]:
    """Holm's method by its definition: the largest of what this hypothesis and all before it are multiplied to."""
    ranked = sorted(p_values)
    count = len(ranked)
    return [
        max(min(1.0, (count - place) * ranked[place]) for place in range(count) if ranked[place] <= value)
        for value in p_values
    ]


class Files:
    """The files of a comparison with one learning rate for each method."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = json.loads((out / "results.json").read_text())

    def verdicts(self, domain: str, method: str, seed: int) -> dict[str, Verdicts]:
        name = method.lower().replace(" + ", "-")
        run = f"seed-{seed}" if method == "base" else f"rate-0.0001-seed-{seed}"
        content = json.loads((self.out / "runs" / domain / name / run / "details.json").read_text())
        found: dict[str, Verdicts] = content["verdicts"]
        return found

    def seeds(self, domain: str, method: str) -> set[int]:
        rows = [row for row in self.rows if (row["domain"], row["method"]) == (domain, method)]
        return {row["seed"] for row in rows if row["error"] is None}


def sets_of(measure: str, names: list[str]) -> list[str]:
    """The metrics that a measure is the mean of."""
    if measure == "new_task":
        return [name for name in names if name.startswith("test/accuracy/")]
    priors = [name for name in names if name.startswith("test/prior/")]
    return priors if measure == "prior" else [name for name in names if name.endswith(f"/{measure}")]


def recomputed(files: Files, domains: list[str], method: str, against: str, measure: str) -> dict[str, Any]:
    """The numbers of one test."""
    seeds = sorted(set.intersection(*(files.seeds(each, name) for each in domains for name in (method, against))))
    shown: dict[int, list[list[int]]] = {}
    differences = []
    for seed in seeds:
        shown[seed], means = [], []
        for domain in domains:
            mine, theirs = (files.verdicts(domain, name, seed) for name in (method, against))
            names = sets_of(measure, list(mine))
            means.append([sum(_accuracy(side[name]) for name in names) / len(names) for side in (mine, theirs)])
            for name in names:
                both = [id for id in mine[name] if mine[name][id] is not None and theirs[name][id] is not None]
                shown[seed].append([int(bool(mine[name][id])) - int(bool(theirs[name][id])) for id in both])
        differences.append(sum(one - other for one, other in means) / len(domains))
    gained = {seed: sum(each.count(1) for each in sets) for seed, sets in shown.items()}
    lost = {seed: sum(each.count(-1) for each in sets) for seed, sets in shown.items()}
    return {
        "difference": sum(differences) / len(differences),
        "differences": differences,
        "seed_p": [fair_coin(gained[seed], lost[seed]) for seed in seeds],
        "p": fair_coin(sum(gained.values()), sum(lost.values())),
        "bootstrap": lambda: _bootstrap(list(shown.values())),
    }


def _accuracy(verdicts: Verdicts) -> float:
    graded = [verdict for verdict in verdicts.values() if verdict is not None]
    return sum(graded) / len(graded)


def _bootstrap(shown: list[list[list[int]]], draws: int = 1500) -> tuple[float, float]:
    """Seeds are drawn, and in each of them questions, one by one."""
    rng = random.Random(1)
    choose: Callable[[list[int]], list[int]] = lambda values: rng.choices(values, k=len(values))  # noqa: E731
    found = []
    for _ in range(draws):
        seeds = [rng.choice(shown) for _ in shown]
        found.append(
            sum(sum(sum(choose(each)) / len(each) for each in sets) / len(sets) for sets in seeds) / len(seeds)
        )
    found.sort()
    return found[int(0.025 * draws)], found[int(0.975 * draws)]


Curves = dict[str, dict[str, float]]


def kept_in_stage(runs: list[list[Curves]], skills: list[str], measure: str) -> tuple[float, float, float] | None:
    """Level, and what each of two methods kept there, in the last stage of the curves that are given.

    Args:
        runs: For both methods the curves of the stage before and of the stage.
        skills: The skills that have been learned, that of the stage last.
        measure: An earlier skill, the mean over them, or a prior task.
    """
    paths = []
    for before, here in runs:
        then = _points(before, skills, measure)
        paths.append(
            [
                *([then[max(then)]] if then else []),
                *(each for _, each in sorted(_points(here, skills, measure).items())),
            ]
        )
    if not all(paths):
        return None
    level = min(path[-1][0] for path in paths)
    found = [_first_at(path, level) for path in paths]
    if found[0] is None or found[1] is None:
        return None
    return float(level), float(found[0]), float(found[1])


def _points(curves: Curves, skills: list[str], measure: str) -> dict[int, tuple[Fraction, Fraction]]:
    """New and kept accuracy at each step that has both."""
    if measure == "earlier skills":
        kept = [curves[f"val/accuracy/{skill}"] for skill in skills[:-1]]
    elif measure in skills:
        kept = [curves[f"val/accuracy/{measure}"]]
    else:
        kept = [curves.get(f"prior/{'average' if measure == 'prior' else measure}", {})]
    found = {}
    for step, new in curves[f"val/accuracy/{skills[-1]}"].items():
        if all(step in each for each in kept):
            found[int(step)] = Fraction(new), sum((Fraction(each[step]) for each in kept), Fraction()) / len(kept)
    return found


def _first_at(path: list[tuple[Fraction, Fraction]], level: Fraction) -> Fraction | None:
    if len(path) == 1:
        return path[0][1] if path[0][0] == level else None
    for (x, y), (to_x, to_y) in pairwise(path):
        if (x - level) * (to_x - level) <= 0:
            return y if x == to_x else y + (to_y - y) * (level - x) / (to_x - x)
    return None
