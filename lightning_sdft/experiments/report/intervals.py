"""Confidence intervals of means over seeds.

[1] Student, The Probable Error of a Mean, 1908, https://doi.org/10.2307/2331554
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

__all__ = ["Mean"]

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5% quantiles of Student's distribution with 1 to 10 degrees of freedom; above, an expansion errs by 0.003."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with the half-width of its 95% interval [1], which one seed does not have."""

    value: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of at least one value."""
        if len(values) == 1:
            return cls(values[0], None)
        return cls(mean(values), quantile(len(values) - 1) * stdev(values) / len(values) ** 0.5)

    def band(self) -> tuple[float, float]:
        """The ends of the interval, limited to values from 0 to 1.

        Example:
            >>> Mean(0.95, 0.1).band()
            (0.85, 1.0)
        """
        width = self.half_width or 0.0
        return max(self.value - width, 0.0), min(self.value + width, 1.0)

    def percent(self) -> str:
        """Mean and half-width in percent, as the paper prints them.

        Example:
            >>> Mean.of([0.70, 0.72, 0.71]).percent()
            '71.0 ± 2.5'
        """
        return f"{100 * self.value:.1f}" + ("" if self.half_width is None else f" ± {100 * self.half_width:.1f}")


def quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution."""
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    normal = NormalDist().inv_cdf(0.975)
    first, second = normal**3 + normal, 5 * normal**5 + 16 * normal**3 + 3 * normal
    return normal + first / (4 * freedom) + second / (96 * freedom**2)  # Cornish and Fisher
