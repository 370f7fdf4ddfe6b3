"""The policy's own log-probabilities of tokens that another engine has sampled.

Letters: N completion tokens of all sequences, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_sdft.losses import Head, head_loss
from lightning_sdft.losses.fused import TokenLoss
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout.sampling import log_probabilities

__all__ = ["score", "score_rollouts"]


def score(hidden: Tensor, head: Head, tokens: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities of tokens under the distribution that the policy itself would sample from, without gradient.

    Temperature and truncation (top-p, top-k, min-p) are applied to the policy as they were to the sampler, so the two
    distributions can be compared. Without truncation on the policy's side, importance ratios would be off by the
    probability that truncation removes.

    Args:
        hidden: Hidden states at the positions that predict the tokens, `(N, D)`.
        head: The output head that turns them into logits.
        tokens: The sampled tokens, `(N,)`.
        sampling: The settings they were sampled with.

    Returns:
        `(N,)`; minus infinity where the policy could not have sampled the token.
    """

    def token_loss(positions: Tensor, logits: Tensor) -> TokenLoss:
        values = log_probabilities(logits, sampling, tokens[positions])
        return TokenLoss(values, logits, {})  # unused as a gradient: hidden states and head are detached

    bias = None if head.bias is None else head.bias.detach()
    detached = replace(head, weight=head.weight.detach(), bias=bias)
    return head_loss(hidden.detach(), detached, torch.ones_like(tokens, dtype=torch.float32), token_loss).values


def score_rollouts(
    rollouts: Sequence[Rollout], hidden: Tensor, head: Head, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all completion tokens: the policy's by :func:`score`, and the sampler's, both `(N,)`."""
    tokens = torch.tensor([token for rollout in rollouts for token in rollout.completion], device=hidden.device)
    sampler = torch.tensor([each for rollout in rollouts for each in rollout.log_probabilities], device=hidden.device)
    return score(hidden, head, tokens, sampling), sampler
