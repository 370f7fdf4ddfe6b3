"""Means over the micro-batches of an optimizer step, and over the processes that take it together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_sdft.distributed.processes import process_count, sums_over_processes
from lightning_sdft.losses import HeadLoss, counted_tokens
from lightning_sdft.records import Rollout

__all__ = ["DIAGNOSTICS", "StepMeans", "mean_tokens"]

DIAGNOSTICS = {
    "kl": "teacher/kl",
    "agreement": "teacher/agreement",
    "teacher_entropy": "teacher/entropy",
    "student_entropy": "student/entropy",
}
"""Maps each per-token diagnostic of the loss to the name under which its mean is logged."""


def mean_tokens(lengths: Sequence[int], device: torch.device, skip_tokens: int = 0) -> float:
    """Number of tokens in the loss of an optimizer step, averaged over the processes.

    Args:
        lengths: Completion tokens of each example on this process.
        device: The device of this process.
        skip_tokens: Number of leading completion tokens left out of the loss.
    """
    (total,) = sums_over_processes([counted_tokens(lengths, skip_tokens)], device)
    return total / process_count()


class StepMeans:
    """Collects weighted values by name until they are read; all processes must use the same names."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, mean: Tensor | float, weight: float = 1.0) -> None:
        """Add a value with a weight; weight 0 only registers the name."""
        self._sums[name][0] += float(mean) * weight if weight else 0.0
        self._sums[name][1] += weight

    def add_loss(self, result: HeadLoss, weights: Tensor, names: Mapping[str, str]) -> None:
        """Add the loss of a micro-batch, and its diagnostics over the tokens whose weight is not 0.

        Args:
            result: The loss.
            weights: Token weights of the loss, `(N,)`.
            names: Maps a diagnostic to the name of its mean.
        """
        self.add("train/loss", result.loss.detach())
        counted = weights > 0
        for diagnostic, name in names.items():
            values = result.diagnostics[diagnostic][counted] if counted.any() else weights.new_zeros(1)
            self.add(name, values.mean(), float(counted.sum()))

    def add_rollouts(self, rollouts: Sequence[Rollout], seconds: float) -> None:
        """Add lengths of the rollouts of an optimizer step, the share that was cut, and the tokens per second."""
        lengths = [len(rollout.completion) for rollout in rollouts]
        self.add("rollout/length", sum(lengths) / len(lengths))
        self.add("rollout/truncated", sum(not rollout.finished for rollout in rollouts) / len(rollouts))
        self.add("rollout/tokens_per_second", sum(lengths) / seconds)

    def read(self, device: torch.device) -> dict[str, float]:
        """The means since the last call, over all processes; names whose weights are all 0 are left out.

        Args:
            device: The device of this process.
        """
        sums = sums_over_processes([value for pair in self._sums.values() for value in pair], device)
        totals = dict(zip(self._sums, zip(sums[::2], sums[1::2], strict=True), strict=True))
        self._sums.clear()
        return {name: total / weight for name, (total, weight) in totals.items() if weight}
