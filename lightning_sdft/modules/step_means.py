"""Means over the micro-batches of an optimizer step."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

__all__ = ["StepMeans"]


class StepMeans:
    """Collects weighted values under names until they are read."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, mean: Tensor | float, weight: float = 1.0) -> None:
        """Count a value with a weight."""
        self._sums[name][0] += float(mean) * weight
        self._sums[name][1] += weight

    def read(self) -> dict[str, float]:
        """The means since the last reading."""
        means = {name: total / weight for name, (total, weight) in self._sums.items()}
        self._sums.clear()
        return means
