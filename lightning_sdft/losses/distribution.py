"""Next-token distributions: probabilities and log-probabilities by one exponential per logit.

Letters: N tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Distribution", "floored_log"]

FLOOR = -1e30
"""The log-probability of what is impossible: `0 * FLOOR` is 0, and a probability that meets it stands out."""


@dataclass(frozen=True)
class Distribution:
    """Next-token distributions of N tokens.

    Args:
        probabilities: `(N, V)`.
        log_probabilities: `(N, V)`, finite: of a token of probability 0 a very small number.
        best: The most probable token of each, `(N,)`.
    """

    probabilities: Tensor
    log_probabilities: Tensor
    best: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Distribution:
        """The distributions of logits `(N, V)`, whose storage becomes that of the log-probabilities.

        For the most probable token m, `log p_v = z_v - z_m + log p_m`: one logarithm per token takes the place of a
        second exponential per logit. What softmax's own sum lost in float32 (a part in a million, which every
        log-probability would share, and so a divergence would show) is seen in the sum of the probabilities.
        """
        probabilities = torch.softmax(logits, -1)
        largest, best = probabilities.max(-1, keepdim=True)
        shift = (largest / probabilities.sum(-1, keepdim=True)).log()
        log_probabilities = logits.sub_(logits.gather(-1, best)).add_(shift).clamp_(min=FLOOR)
        return cls(probabilities, log_probabilities, best.squeeze(-1))

    def entropy(self) -> Tensor:
        """`- sum_v p log p` in nats, `(N,)`."""
        return -(self.probabilities * self.log_probabilities).sum(-1)

    def kl(self, log_probabilities: Tensor) -> Tensor:
        """`KL(p || q) = sum_v p (log p - log q)` in nats `(N,)`, from `log q` `(N, V)`.

        The weighted difference is summed: the difference of two weighted sums would lose four digits in float32.
        """
        values = (self.log_probabilities - log_probabilities).mul_(self.probabilities).sum(-1)
        return values.masked_fill(values > math.sqrt(-FLOOR), torch.inf)


def floored_log(probabilities: Tensor) -> Tensor:
    """Log-probabilities, finite as those of a :class:`Distribution`; overwrites the probabilities."""
    return probabilities.log_().clamp_(min=FLOOR)
