"""Foretells what SDFT gains on a task from how far its teacher is ahead of it before training.

[1] finds the final gain of such training to be linear in that gap. The line here is fitted to short runs of the laptop
models (``python -m tests.forecast``), which differ in model, skill, style of the demonstrations and temperature.

[1] A predictive law for on-policy self-distillation, 2026, https://arxiv.org/abs/2605.30070 (as its abstract claims)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LINE", "Forecast", "Line"]

QUANTILE = 1.994
"""Of Student's t with 70 degrees of freedom, for 95%."""


@dataclass(frozen=True)
class Forecast:
    """The gain in accuracy to expect, as a share of questions.

    Args:
        gain: The likeliest.
        low: Lower end of the interval that holds the gain of 95% of runs like those of the line.
        high: Its upper end.
        outside: Whether the gap is beyond all gaps that the line was fitted to.
    """

    gain: float
    low: float
    high: float
    outside: bool


@dataclass(frozen=True)
class Line:
    """A line fitted to runs by least squares: gain = intercept + slope gap.

    Args:
        intercept: Gain without a gap.
        slope: Gain per gap.
        scatter: Standard deviation of the runs about the line, with two degrees of freedom fewer than runs.
        runs: Number of runs.
        mean: Mean of their gaps.
        squares: Sum of the squares of their gaps about the mean.
        lowest: Their lowest gap.
        highest: Their highest gap.
    """

    intercept: float
    slope: float
    scatter: float
    runs: int
    mean: float
    squares: float
    lowest: float
    highest: float

    def at(self, gap: float) -> Forecast:
        """What a run with this gap may gain."""
        gain = self.intercept + self.slope * gap
        error = self.scatter * math.sqrt(1 + 1 / self.runs + (gap - self.mean) ** 2 / self.squares)
        width = QUANTILE * error
        return Forecast(gain, gain - width, gain + width, not self.lowest <= gap <= self.highest)


LINE = Line(-0.3312, 0.9894, 0.1836, 72, 0.531, 14.9807, -0.375, 1.0)
"""Through the runs of ``python -m tests.forecast``: 96 steps, correlation 0.93. In a style that the model cannot read
there is no gap, and it loses; among the others the gap says little more."""
