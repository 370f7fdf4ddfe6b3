"""Sample tokens from logits.

Letters: B sequences, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_sdft.records import Sampling

__all__ = ["log_probabilities", "sample"]

BLOCK = 128
"""Number of tokens in a block of the vocabulary when a token is drawn in two levels: first a block, then a token."""

LARGEST = 1024
"""Number of most probable tokens that top-p sorts on a CPU; it sorts the whole vocabulary only if those are too few."""


def sample(logits: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        logits: `(B, V)`.
        sampling: Settings of sampling.
        noise: Uniform on [0, 1), in float64, `(B,)`.

    Returns:
        The tokens `(B,)`, and their log-probabilities `(B,)` under the distribution they were sampled from.
    """
    if sampling.temperature == 0:
        scores, tokens = logits.max(-1)
        return tokens, scores - logits.logsumexp(-1)
    scaled, weights = _weigh(logits, sampling)
    tokens, total = _invert(weights, noise)
    return tokens, _gather(scaled, tokens) - total.log().to(scaled.dtype)


def log_probabilities(logits: Tensor, sampling: Sampling, tokens: Tensor) -> Tensor:
    """Log-probability of one given token per row under the distribution that :func:`sample` draws from.

    Args:
        logits: `(B, V)`.
        sampling: Settings of sampling. For greedy decoding, the result is the log-probability at temperature 1, as in
            :func:`sample`.
        tokens: `(B,)`.

    Returns:
        `(B,)`; minus infinity where top-k, min-p or top-p exclude the token.
    """
    if sampling.temperature == 0:
        return _gather(logits, tokens) - logits.logsumexp(-1)
    scaled, weights = _weigh(logits, sampling)
    scores = _gather(scaled, tokens) - weights.sum(-1, dtype=torch.float64).log().to(scaled.dtype)
    return scores.masked_fill(_gather(weights, tokens) == 0, -torch.inf)


def _gather(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens[:, None]).squeeze(-1)


def _weigh(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Scaled logits, shifted so that the largest is 0, and their exponentials as sampling weights, both `(B, V)`."""
    scaled = logits / sampling.temperature
    scaled -= scaled.amax(-1, keepdim=True)
    return scaled, _restrict(scaled.exp(), sampling)


def _restrict(weights: Tensor, sampling: Sampling) -> Tensor:
    """Set weights `(B, V)`, of which the largest is 1, to 0 where top-k, min-p or top-p exclude a token."""
    if sampling.top_k:
        smallest = weights.topk(min(sampling.top_k, weights.shape[-1])).values[:, -1:]
        weights = weights.masked_fill(weights < smallest, 0)
    if sampling.min_p:
        weights = weights.masked_fill(weights < sampling.min_p, 0)
    if sampling.top_p < 1:
        weights = weights.masked_fill(weights < _smallest_of_top_p(weights, sampling.top_p), 0)
    return weights


def _smallest_of_top_p(weights: Tensor, top_p: float) -> Tensor:
    """The smallest weight `(B, 1)` that top-p keeps; tokens of equal weight are kept or excluded together."""
    share = top_p * weights.sum(-1, keepdim=True, dtype=torch.float64)
    # On a CPU, sorting everything is slow. On other devices, checking whether that is needed is slow (it synchronises).
    count = min(LARGEST, weights.shape[-1]) if weights.device.type == "cpu" else weights.shape[-1]
    largest = weights.topk(count).values
    if count < weights.shape[-1] and (largest.sum(-1, keepdim=True, dtype=torch.float64) < share).any():
        largest = weights.sort(descending=True).values
    before = largest.cumsum(-1, dtype=torch.float64) - largest
    return largest.masked_fill(before >= share, torch.inf).amin(-1, keepdim=True)


def _invert(weights: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens `(B,)` at which the cumulative weights reach the fraction `noise`, and the total weight `(B,)` in float64.

    Uses two levels for large vocabularies, so most of the sum stays in the cheap dtype.
    """
    if weights.shape[-1] <= 4 * BLOCK:
        token, _, total = _invert_level(weights, noise)
        return token, total
    blocks = pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    block, share, total = _invert_level(blocks.sum(-1), noise)
    token, _, _ = _invert_level(blocks[torch.arange(len(block), device=block.device), block], share)
    return block * BLOCK + token, total


def _invert_level(weights: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invert the cumulative weights once.

    The comparison is strict and the noise stays below 1, so an index of weight 0 is never drawn.

    Returns:
        The indices `(B,)`, how far into each index's own weight the noise falls as a fraction `(B,)`, and the total
        weight `(B,)`.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = (noise.clamp(0, 1 - 1e-12) * total)[:, None]
    index = (cumulative <= target).sum(-1, keepdim=True)
    weight = weights.gather(-1, index)
    share = 1 - (cumulative.gather(-1, index) - target) / weight
    return index.squeeze(-1), share.squeeze(-1), total
