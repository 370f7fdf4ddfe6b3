"""Uncertainty of accuracies: bootstrap confidence intervals over questions.

[1] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (the percentile interval)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Score", "bootstrap"]

DRAWS = 2**20
"""Maximum number of resampled questions in memory at once."""


@dataclass(frozen=True)
class Score:
    """A mean over questions with its bootstrap 95% interval.

    Args:
        value: The mean; NaN if there are no values.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


def bootstrap(sets: Sequence[Tensor], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Score:
    """The mean over sets of the mean over questions, with the percentile interval [1].

    The questions of each set are resampled with replacement, independently of the other sets. If all values are equal,
    the interval has zero width, whatever the number of questions.

    Args:
        sets: For each set the values of its questions, `(Q,)`; empty sets are ignored.
        level: Share of the resampled means that lie within the interval.
        resamples: Number of resampled means.
        seed: Seed for resampling, so that the same values always give the same interval.

    Example:
        >>> score = bootstrap([torch.tensor([1.0] * 60 + [0.0] * 40)])
        >>> print(f"{score.value:.1f}, {score.low:.1f} to {score.high:.1f}")
        0.6, 0.5 to 0.7
    """
    # Sorted, because the order of gathered questions depends on the number of processes, and the interval must not.
    values = [each.double().cpu().sort().values for each in sets if len(each)]
    if not values:
        return Score(float("nan"), float("nan"), float("nan"))
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([_resampled_means(each, resamples, generator) for each in values]).mean(dim=0)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return Score(torch.stack([each.mean() for each in values]).mean().item(), low, high)


def _resampled_means(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    size, rows = len(values), max(DRAWS // len(values), 1)
    counts = [min(rows, resamples - first) for first in range(0, resamples, rows)]
    draws = (torch.randint(size, (count, size), generator=generator, device="cpu") for count in counts)
    return torch.cat([values[drawn].mean(dim=1) for drawn in draws])
