"""One method against another on one measure: how large the difference is, what it may be due to, and what may be said.

The difference may be due to chance in two ways. Other questions might have been asked: an exact test over the questions
that only one of the two has right speaks of that. Training might have been repeated with other seeds: whether all seeds
agree, and Student's interval of the differences between seeds, speak of that. A claim needs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any

from lightning_sdft.experiments.evidence.paired import Pairs, holm, mcnemar, paired_bootstrap
from lightning_sdft.experiments.evidence.result import Result
from lightning_sdft.experiments.report.intervals import Mean

__all__ = ["LEVEL", "Contrast", "SeedContrast", "contrast", "corrected"]

LEVEL = 0.05

ROUNDING = 1e-9
"""A smaller difference is none."""


@dataclass(frozen=True)
class SeedContrast:
    """The difference that one seed shows.

    Args:
        seed: The seed.
        difference: Accuracy of the method minus that of the other one.
        pairs: The questions that only one of them has right, if verdicts were kept.
        p: The p-value of McNemar's exact test.
    """

    seed: int
    difference: float
    pairs: Pairs | None = None
    p: float | None = None


@dataclass(frozen=True)
class Contrast:
    """One method against another on one measure.

    Args:
        domain: What they learned; several are joined by ``+``.
        method: The method.
        against: The other one.
        measure: What is measured.
        accuracy: Accuracy of the method, mean over seeds.
        other: Accuracy of the other one.
        seeds: What each seed shows.
        half_width: Half of Student's 95% interval of the difference over seeds, which one seed does not have.
        bootstrap: The 95% interval of the difference by paired bootstrap, if verdicts were kept.
        p: The p-value of McNemar's exact test over the questions of all seeds.
        corrected: The p-value, corrected for how many tests there are.
    """

    domain: str
    method: str
    against: str
    measure: str
    accuracy: float
    other: float
    seeds: Sequence[SeedContrast]
    half_width: float | None
    bootstrap: tuple[float, float] | None = None
    p: float | None = None
    corrected: float | None = None

    @property
    def difference(self) -> float:
        """Mean difference over seeds."""
        return self.accuracy - self.other

    @property
    def agreeing(self) -> int:
        """Number of seeds whose difference has the sign of the mean."""
        mean_difference = 0.0 if abs(self.difference) < ROUNDING else self.difference
        return sum(each.difference * mean_difference > 0 for each in self.seeds)

    @property
    def words(self) -> str:
        """What may be said: ``better`` or ``worse`` if questions and seeds allow it."""
        number = f"{len(self.seeds)} seed{'' if len(self.seeds) == 1 else 's'}"
        if self.corrected is None:
            return "no verdicts, no test"
        questions = sum(each.pairs.gained - each.pairs.lost for each in self.seeds if each.pairs is not None)
        if questions * self.difference < 0:  # sets of questions that weigh the same need not be of one size
            return f"not distinguishable with {number}"
        over_seeds = self.half_width is not None and abs(self.difference) > self.half_width
        if self.corrected < LEVEL and self.agreeing == len(self.seeds) and over_seeds:
            return "better" if self.difference > 0 else "worse"
        return f"not distinguishable with {number}"

    def record(self) -> dict[str, Any]:
        """The contrast as JSON."""
        derived = {"difference": self.difference, "agreeing": self.agreeing, "words": self.words}
        return {**asdict(self), **derived}


def contrast(
    results: Mapping[str, Sequence[Result]], others: Mapping[str, Sequence[Result]], measure: str
) -> Contrast | None:
    """Test one method against another; ``None`` if no seed has both.

    Args:
        results: By domain the results of the method, one for each seed.
        others: Those of the other one.
        measure: What is measured; over several domains it is the mean.
    """
    found = {domain: _by_seed(each, measure) for domain, each in results.items()}
    against = {domain: _by_seed(others.get(domain, ()), measure) for domain in results}
    seeds = sorted(set.intersection(*(found[each].keys() & against[each].keys() for each in found)))
    if not seeds:
        return None
    mine, theirs = (
        [mean(side[each][seed].accuracies[measure] for each in side) for seed in seeds] for side in (found, against)
    )
    differences = [one - other for one, other in zip(mine, theirs, strict=True)]
    sets: list[list[Pairs]] = []
    for domain in found:
        sets += _pairs([(found[domain][seed], against[domain][seed]) for seed in seeds], measure) or [[]]
    example, other = found[next(iter(found))][seeds[0]], against[next(iter(found))][seeds[0]]
    tested = [SeedContrast(seed, difference) for seed, difference in zip(seeds, differences, strict=True)]
    begun = Contrast(
        "+".join(found),
        example.method,
        other.method,
        measure,
        mean(mine),
        mean(theirs),
        tested,
        Mean.of(differences).half_width,
    )
    if not all(sets):
        return begun
    of_seed = [_sum(each) for each in zip(*sets, strict=True)]
    tested = [
        replace(each, pairs=pairs, p=mcnemar(pairs.gained, pairs.lost))
        for each, pairs in zip(tested, of_seed, strict=True)
    ]
    whole = _sum(of_seed)
    p = mcnemar(whole.gained, whole.lost)
    return replace(begun, seeds=tested, bootstrap=paired_bootstrap(sets), p=p, corrected=p)


def corrected(tests: Sequence[Contrast]) -> list[Contrast]:
    """The tests with p-values corrected for their number, by Holm's method."""
    p_values = iter(holm([each.p for each in tests if each.p is not None]))
    return [each if each.p is None else replace(each, corrected=next(p_values)) for each in tests]


def _by_seed(results: Sequence[Result], measure: str) -> dict[int, Result]:
    return {each.seed: each for each in results if measure in each.accuracies}


def _pairs(both: Sequence[tuple[Result, Result]], measure: str) -> list[list[Pairs]]:
    """For each set of questions the pairs of each seed; none if a model has no verdicts, or they share no question."""
    if any(measure not in each.verdicts for pair in both for each in pair):
        return []
    names = list(both[0][0].verdicts[measure])
    if any(set(each.verdicts[measure]) != set(names) for pair in both for each in pair):
        return []
    sets = [[Pairs.of(*(each.verdicts[measure][name] for each in pair)) for pair in both] for name in names]
    return sets if all(pairs.questions for each in sets for pairs in each) else []


def _sum(pairs: Sequence[Pairs]) -> Pairs:
    return Pairs(*(sum(getattr(each, name) for each in pairs) for name in ("questions", "gained", "lost")))
