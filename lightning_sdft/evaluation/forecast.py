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
        outside: In what this run is beyond all runs that the line was fitted to; empty if it is like them.
    """

    gain: float
    low: float
    high: float
    outside: str


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
        gaps: Their lowest and their highest gap.
        bases: The lowest and the highest accuracy before training.
    """

    intercept: float
    slope: float
    scatter: float
    runs: int
    mean: float
    squares: float
    gaps: tuple[float, float]
    bases: tuple[float, float]

    def at(self, gap: float, base: float) -> Forecast:
        """What a run may gain: all that the model cannot do, and lose all that it can, at the most.

        Args:
            gap: How far the teacher is ahead, sampled as in training.
            base: The model's accuracy before training, greedily.
        """
        gain = self.intercept + self.slope * gap
        width = QUANTILE * self.scatter * math.sqrt(1 + 1 / self.runs + (gap - self.mean) ** 2 / self.squares)
        expected, low, high = (min(max(each, -base), 1 - base) for each in (gain, gain - width, gain + width))
        return Forecast(expected, low, high, self._beyond(gap, base))

    def _beyond(self, gap: float, base: float) -> str:
        compared = [("gap", gap, self.gaps), ("accuracy before training", base, self.bases)]
        return ", ".join(
            f"their {name} was {least:.2f} to {most:.2f}, and here it is {value:.2f}"
            for name, value, (least, most) in compared
            if not least <= value <= most
        )


LINE = Line(-0.3312, 0.9894, 0.1836, 72, 0.531, 14.9807, (-0.375, 1.0), (0.3125, 0.7734))
"""Through the runs of ``python -m tests.forecast``: 96 steps, correlation 0.93. In a style that the model cannot read
there is no gap, and it loses; among the others the gap says little more."""
