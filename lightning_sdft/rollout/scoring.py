"""The policy's own log-probabilities of tokens that somebody else has drawn.

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
    """Log-probabilities under the distribution that the policy would have drawn from, without gradient.

    Temperature and truncation (top-p, top-k, min-p) are applied to the policy as they were to the sampler. The ratio of
    both is then one between two distributions; with the policy's full vocabulary it would be off by the probability
    that the truncation has left out.

    Args:
        hidden: Hidden states at the positions that predict the tokens, `(N, D)`.
        head: The head that makes logits of them.
        tokens: `(N,)`.
        sampling: How they were drawn.

    Returns:
        `(N,)`; minus infinity where the policy would not have drawn the token.
    """

    def token_loss(positions: Tensor, logits: Tensor) -> TokenLoss:
        values = log_probabilities(logits, sampling, tokens[positions])
        return TokenLoss(values, logits, {})  # detached as they are, nobody asks for the gradient

    bias = None if head.bias is None else head.bias.detach()
    detached = replace(head, weight=head.weight.detach(), bias=bias)
    return head_loss(hidden.detach(), detached, torch.ones_like(tokens, dtype=torch.float32), token_loss).values


def score_rollouts(
    rollouts: Sequence[Rollout], hidden: Tensor, head: Head, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens of rollouts: the policy's by :func:`score`, and the sampler's, both `(N,)`."""
    tokens = torch.tensor([token for rollout in rollouts for token in rollout.completion], device=hidden.device)
    sampler = torch.tensor([each for rollout in rollouts for each in rollout.log_probabilities], device=hidden.device)
    return score(hidden, head, tokens, sampling), sampler
