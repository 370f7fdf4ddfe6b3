"""Next-token distributions, by one exponential per logit.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FLOOR", "Distribution"]

FLOOR = -1e30
"""The logit of what is impossible: `0 * FLOOR` is 0, and a probability that meets it stands out."""


@dataclass(frozen=True)
class Distribution:
    """Next-token distributions of N tokens.

    Args:
        probabilities: `(N, V)`.
        logits: `(N, V)`, finite; ``FLOOR`` for what is impossible.
        largest_logit: `z_m` of the most probable token m, `(N, 1)`.
        largest_log_probability: `log p_m`, `(N, 1)`.
    """

    probabilities: Tensor
    logits: Tensor
    largest_logit: Tensor
    largest_log_probability: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Distribution:
        """The distributions of finite logits `(N, V)`.

        What softmax's own sum loses in float32, a part in a million, all log-probabilities would share, and a
        divergence would show it. It is seen in the sum of the probabilities.
        """
        probabilities = torch.softmax(logits, -1)
        largest = probabilities.amax(-1, keepdim=True) / probabilities.sum(-1, keepdim=True)
        return cls(probabilities, logits, logits.amax(-1, keepdim=True), largest.log())

    @property
    def normalizer(self) -> Tensor:
        """`log sum_v exp z_v = z_m - log p_m` `(N, 1)`, which takes the place of a second exponential per logit."""
        return self.largest_logit - self.largest_log_probability

    @property
    def log_probabilities(self) -> Tensor:
        """`(N, V)`."""
        return self.logits - self.normalizer

    def entropy(self) -> Tensor:
        """`- sum_v p log p` in nats, `(N,)`."""
        return self.normalizer.squeeze(-1) - (self.probabilities * self.logits).sum(-1)

    def log_ratio(self, other: Distribution) -> Tensor:
        """`log p - log q` `(N, V)`, from differences of raw logits, which are exact where both are close."""
        shift = self.largest_logit - other.largest_logit
        shift -= self.largest_log_probability - other.largest_log_probability
        return (self.logits - other.logits).sub_(shift)

    def mean(self, quantity: Tensor) -> Tensor:
        """`sum_v p quantity` `(N,)` of a log-ratio `(N, V)`: infinite where it is with something impossible.

        A divergence is the mean of a difference, never a difference of means: that would lose digits in float32.
        """
        values = (self.probabilities * quantity).sum(-1)
        return values.masked_fill(values > math.sqrt(-FLOOR), torch.inf)

    def agrees(self, other: Distribution) -> Tensor:
        """Whether both have the same most probable token, `(N,)`."""
        best = self.logits.argmax(-1, keepdim=True)
        return (other.logits.gather(-1, best) == other.largest_logit).squeeze(-1)
