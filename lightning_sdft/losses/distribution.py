"""Next-token distributions that compute only one exponential per logit.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FLOOR", "Distribution"]

FLOOR = -1e30
"""The logit of an impossible token. Unlike minus infinity it is safe to multiply: `0 * FLOOR` is 0, and any other
probability times it is so large that it is easily recognised."""


@dataclass(frozen=True)
class Distribution:
    """Next-token distributions at N positions.

    Args:
        probabilities: `(N, V)`.
        logits: `(N, V)`, finite; ``FLOOR`` for impossible tokens.
        largest_logit: Logit `z_m` of the most probable token m, `(N, 1)`.
        largest_log_probability: Its log-probability `log p_m`, `(N, 1)`.
    """

    probabilities: Tensor
    logits: Tensor
    largest_logit: Tensor
    largest_log_probability: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Distribution:
        """The distributions that finite logits `(N, V)` define.

        Float32 softmax sums to 1 only within 1e-6. Dividing by the actual sum keeps that error out of the divergence.
        """
        probabilities = torch.softmax(logits, -1)
        largest = probabilities.amax(-1, keepdim=True) / probabilities.sum(-1, keepdim=True)
        return cls(probabilities, logits, logits.amax(-1, keepdim=True), largest.log())

    @property
    def normalizer(self) -> Tensor:
        """`log sum_v exp z_v`, `(N, 1)`, computed as `z_m - log p_m` to save a second exponential per logit."""
        return self.largest_logit - self.largest_log_probability

    @property
    def log_probabilities(self) -> Tensor:
        """`log p`, `(N, V)`."""
        return self.logits - self.normalizer

    def entropy(self) -> Tensor:
        """`- sum_v p log p` in nats, `(N,)`."""
        return self.normalizer.squeeze(-1) - (self.probabilities * self.logits).sum(-1)

    def log_ratio(self, other: Distribution) -> Tensor:
        """`log p - log q`, `(N, V)`. It subtracts raw logits, which is exact where the two are close."""
        shift = self.largest_logit - other.largest_logit
        shift -= self.largest_log_probability - other.largest_log_probability
        return (self.logits - other.logits).sub_(shift)

    def mean(self, quantity: Tensor) -> Tensor:
        """Mean `sum_v p quantity`, `(N,)`, of a log-ratio `(N, V)`; infinite where q excludes a token that p allows.

        Compute a divergence as the mean of a difference, not as a difference of means, which loses digits in float32.
        """
        values = (self.probabilities * quantity).sum(-1)
        return values.masked_fill(values > math.sqrt(-FLOOR), torch.inf)

    def agrees(self, other: Distribution) -> Tensor:
        """Whether both distributions have the same most probable token, `(N,)`."""
        best = self.logits.argmax(-1, keepdim=True)
        return (other.logits.gather(-1, best) == other.largest_logit).squeeze(-1)
