"""Losses on given target tokens: cross-entropy (SFT, CPT) and the Dynamic Fine-Tuning loss (DFT).

Letters: N tokens, D width, V vocabulary.

[1] Wu et al., On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification, 2025,
    https://arxiv.org/abs/2508.05629
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.fused import HeadLoss, TokenLoss, head_loss
from lightning_sdft.losses.head import Head

__all__ = ["cross_entropy", "dynamic_fine_tuning"]


def cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor, chunk_tokens: int | None = None
) -> HeadLoss:
    """Cross-entropy loss: weighted sum of `-log p(target)` over tokens.

    Args:
        hidden: Hidden states at the positions that predict the targets, `(N, D)`.
        head: The output head that turns them into logits.
        targets: Target tokens, `(N,)`.
        weights: Weight of each token in the loss, `(N,)`.
        chunk_tokens: See :func:`head_loss`.

    Returns:
        The loss, with the diagnostics ``nll`` and ``entropy`` per token, in nats.
    """

    def token_loss(tokens: Tensor, logits: Tensor) -> TokenLoss:
        nll, gradient, entropy = _likelihood(logits, targets[tokens])
        return TokenLoss(nll, gradient, {"nll": nll, "entropy": entropy})

    return head_loss(hidden, head, weights, token_loss, chunk_tokens=chunk_tokens)


def dynamic_fine_tuning(
    hidden: Tensor, head: Head, targets: Tensor, weights: Tensor, chunk_tokens: int | None = None
) -> HeadLoss:
    """Dynamic Fine-Tuning loss [1]: weighted sum of `-sg(p(target)) * log p(target)`, sg = stop-gradient.

    Its value falls towards 0 early and cannot be read as a log-perplexity; watch the diagnostic ``nll`` instead.
    Arguments and return value are those of :func:`cross_entropy`.
    """

    def token_loss(tokens: Tensor, logits: Tensor) -> TokenLoss:
        nll, gradient, entropy = _likelihood(logits, targets[tokens])
        probability = (-nll).exp()
        return TokenLoss(probability * nll, gradient.mul_(probability[:, None]), {"nll": nll, "entropy": entropy})

    return head_loss(hidden, head, weights, token_loss, chunk_tokens=chunk_tokens)


def _likelihood(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihood `(N,)`, its gradient with respect to the logits `(N, V)`, and the entropy `(N,)`."""
    student = Distribution.of(logits)
    nll = (student.normalizer - logits.gather(-1, targets[:, None])).squeeze(-1)
    entropy = student.entropy()
    gradient = student.probabilities
    gradient.scatter_add_(-1, targets[:, None], -torch.ones_like(nll)[:, None])
    return nll, gradient, entropy
