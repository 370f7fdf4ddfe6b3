"""Importance weights for rollouts whose sampler is not exactly the policy being trained.

An inference engine computes the same network in another precision and order, so it samples from a distribution that is
close to the policy's, but not the same.

[1] Ionides, Truncated Importance Sampling, 2008, https://doi.org/10.1198/106186008X320456
[2] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897

Letters: N completion tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_sdft.settings import Positive, check_ranges

__all__ = ["TruncatedImportance"]


@dataclass(frozen=True)
class TruncatedImportance:
    """Truncated importance weights [1] `r_t = min(p(y_t) / q(y_t), cap)`, for policy p and sampler q.

    Args:
        cap: Upper limit of the ratios, which bounds the variance; 2 as in the code of [2].
        per: With ``token``, each token is weighted by its own ratio. With ``sequence``, all tokens of a completion are
            weighted by the mean ratio of those that count in the loss, as in the code of [2].

    Raises:
        SettingError: If ``cap`` is not positive.

    Example:
        >>> policy, sampler = torch.tensor([0.5, 0.9, 0.2]).log(), torch.tensor([0.5, 0.3, 0.4]).log()
        >>> TruncatedImportance()(policy, sampler, lengths=[2, 1])
        tensor([1.5000, 1.5000, 0.5000])
        >>> TruncatedImportance(per="token")(policy, sampler, lengths=[2, 1])
        tensor([1.0000, 2.0000, 0.5000])
    """

    cap: Positive = 2.0
    per: Literal["sequence", "token"] = "sequence"

    def __post_init__(self) -> None:
        check_ranges(TruncatedImportance, vars(self))

    def ratios(self, policy: Tensor, sampler: Tensor) -> Tensor:
        """Truncated ratio of each token, `(N,)`, from the log-probabilities of policy and sampler, `(N,)`."""
        return (policy - sampler).exp().clamp(max=self.cap)

    def __call__(self, policy: Tensor, sampler: Tensor, lengths: Sequence[int], skip_tokens: int = 0) -> Tensor:
        """Importance weight of each token.

        Args:
            policy: The policy's log-probability of each token, `(N,)`.
            sampler: The sampler's log-probability of each token, `(N,)`.
            lengths: Number of completion tokens of each sequence.
            skip_tokens: Number of tokens at the start of each completion that do not count in the loss.

        Returns:
            `(N,)`; exactly 1 where policy and sampler agree.
        """
        ratios = self.ratios(policy, sampler)
        if self.per == "token":
            return ratios
        weights = torch.ones_like(ratios)
        for part, out in zip(ratios.split(list(lengths)), weights.split(list(lengths)), strict=True):
            if len(part) > skip_tokens:
                out.fill_(part[skip_tokens:].mean())
        return weights


torch.serialization.add_safe_globals([TruncatedImportance])  # see ForwardKL
