"""Statistics of two methods that were asked the same questions, with the same seeds.

[1] McNemar, Note on the sampling error of the difference between correlated proportions or percentages, 1947,
    https://doi.org/10.1007/BF02295996
[2] Holm, A simple sequentially rejective multiple test procedure, 1979, https://www.jstor.org/stable/4615733
[3] Efron, Bootstrap methods: another look at the jackknife, 1979, https://doi.org/10.1214/aos/1176344552
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

__all__ = ["Pairs", "holm", "mcnemar", "paired_bootstrap"]

DRAWS = 10_000


@dataclass(frozen=True)
class Pairs:
    """How often one of two methods was right where the other was wrong.

    Args:
        questions: Number of questions that were graded for both.
        gained: Those that the method has right and the other has wrong.
        lost: Those that the method has wrong and the other has right.
    """

    questions: int
    gained: int
    lost: int

    @classmethod
    def of(cls, method: Mapping[str, bool | None], other: Mapping[str, bool | None]) -> Pairs:
        """Count the verdicts, which are given by question; what is missing or ungraded for one of them is left out.

        Example:
            >>> Pairs.of({"a": True, "b": True, "c": None}, {"a": True, "b": False, "c": True})
            Pairs(questions=2, gained=1, lost=0)
        """
        both = [(method[name], other[name]) for name in method if None not in (method[name], other.get(name))]
        return cls(len(both), both.count((True, False)), both.count((False, True)))


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of the exact test [1]: are the questions that only one has right a toss of a fair coin?

    It is the binomial test at one half, in whole numbers until the last division.

    Example:
        >>> mcnemar(5, 0), mcnemar(3, 3)
        (0.0625, 1.0)
    """
    total = gained + lost
    tail = sum(comb(total, count) for count in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**total))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that are corrected for how many there are [2], in the same order.

    Example:
        >>> holm([0.04, 0.01, 0.03])
        [0.06, 0.03, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def paired_bootstrap(sets: Sequence[Sequence[Pairs]]) -> tuple[float, float]:
    """The 95% interval of a mean difference in accuracy, by drawing seeds, and for each of them questions [3].

    Both methods are given the same seeds and questions in each draw. The difference is a mean over sets of questions.

    Args:
        sets: For each set of questions the pairs of each seed; every set has all seeds.
    """
    generator = np.random.default_rng(0)
    seeds = len(sets[0])
    drawn = generator.integers(seeds, size=(DRAWS, seeds))
    total = np.zeros(DRAWS)
    for pairs in sets:
        counts = np.array([each.questions for each in pairs])
        changed = np.array([(each.gained, each.lost) for each in pairs]) / counts[:, None]
        shares = np.column_stack([changed, 1 - changed.sum(axis=1)])
        found = generator.multinomial(counts[drawn], shares[drawn])
        total += ((found[..., 0] - found[..., 1]) / counts[drawn]).mean(axis=1)
    low, high = np.quantile(total / len(sets), [0.025, 0.975])
    return float(low), float(high)
