"""Means over the micro-batches of an optimizer step, and over the processes that take it together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_sdft.distributed.processes import sums_over_processes
from lightning_sdft.losses import HeadLoss

__all__ = ["StepMeans"]


class StepMeans:
    """Collects weighted values under names until they are read; every process has the same names."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, mean: Tensor | float, weight: float = 1.0) -> None:
        """Count a value with a weight; one of weight 0 only says that there is the name."""
        self._sums[name][0] += float(mean) * weight if weight else 0.0
        self._sums[name][1] += weight

    def add_loss(self, result: HeadLoss, weights: Tensor, names: Mapping[str, str]) -> None:
        """Count the loss of a micro-batch, and its diagnostics over the tokens that count.

        Args:
            result: The loss.
            weights: Token weights of the loss, `(N,)`.
            names: Diagnostic to the name of its mean.
        """
        self.add("train/loss", result.loss.detach())
        counted = weights > 0
        for diagnostic, name in names.items():
            values = result.diagnostics[diagnostic][counted] if counted.any() else weights.new_zeros(1)
            self.add(name, values.mean(), float(counted.sum()))

    def read(self, device: torch.device) -> dict[str, float]:
        """The means since the last reading, over all processes; without names whose weights are all 0.

        Args:
            device: Where this process computes.
        """
        sums = sums_over_processes([value for pair in self._sums.values() for value in pair], device)
        totals = dict(zip(self._sums, zip(sums[::2], sums[1::2], strict=True), strict=True))
        self._sums.clear()
        return {name: total / weight for name, (total, weight) in totals.items() if weight}
