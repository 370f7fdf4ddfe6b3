"""How much each token counts in a loss: what is masked, and what the mean is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Reduction", "counted_tokens", "token_weights"]

Reduction = Literal["sequence", "token"]


def counted_tokens(lengths: Sequence[int], skip_tokens: int = 0) -> int:
    """How many tokens of completions of these lengths count, if so many leading ones of each do not."""
    return sum(max(length - skip_tokens, 0) for length in lengths)


def token_weights(
    lengths: Sequence[int],
    reduction: Reduction,
    skip_tokens: int = 0,
    group_lengths: Sequence[int] | None = None,
    importance: Tensor | None = None,
    group_tokens: float | None = None,
) -> Tensor:
    """Weights of the tokens of a micro-batch, so that the mean over micro-batches is the mean over their group.

    ``sequence`` takes the mean over a sequence's tokens, then over sequences: every sequence counts the same, whatever
    its length. ``token`` takes the mean over all tokens of the group, so that long sequences count more. A sequence
    whose tokens are all skipped counts as 0.

    Args:
        lengths: Completion tokens of each sequence of the micro-batch.
        reduction: ``sequence`` or ``token``.
        skip_tokens: Leading completion tokens of each sequence that do not count.
        group_lengths: Completion tokens of all sequences of the optimizer step, of which the micro-batch holds an
            equal share of sequences; by default the micro-batch is the whole group.
        importance: Importance weight of each token, `(N,)`; see :class:`TruncatedImportance`.
        group_tokens: Tokens that count in the optimizer step, per process on average; by default those of
            ``group_lengths``. With it, the mean over processes is the mean over all of their tokens.

    Returns:
        Weights `(N,)`, N = sum of ``lengths``.
    """
    group_lengths = lengths if group_lengths is None else group_lengths
    counted = [max(length - skip_tokens, 0) for length in lengths]
    if reduction == "sequence":
        shares = [1 / (max(count, 1) * len(lengths)) for count in counted]
    else:
        total = counted_tokens(group_lengths, skip_tokens) if group_tokens is None else group_tokens
        shares = [len(group_lengths) / (len(lengths) * max(total, 1))] * len(lengths)
    weights = torch.zeros(sum(lengths))
    start = 0
    for length, count, share in zip(lengths, counted, shares, strict=True):
        weights[start + length - count : start + length] = share
        start += length
    return weights if importance is None else weights * importance.to(weights.device)
