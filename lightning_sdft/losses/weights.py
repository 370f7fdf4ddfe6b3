"""The weight of each token in a loss: which tokens are masked, and what the mean is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Reduction", "counted_tokens", "token_weights"]

Reduction = Literal["sequence", "token"]


def counted_tokens(lengths: Sequence[int], skip_tokens: int = 0) -> int:
    """Total completion tokens after dropping the first `skip_tokens` of each sequence."""
    return sum(max(length - skip_tokens, 0) for length in lengths)


def token_weights(
    lengths: Sequence[int],
    reduction: Reduction,
    skip_tokens: int = 0,
    group_lengths: Sequence[int] | None = None,
    importance: Tensor | None = None,
    group_tokens: float | None = None,
    places: Sequence[range] | None = None,
) -> Tensor:
    """Weight of each token of a micro-batch.

    The weights are chosen so that averaging the losses of the micro-batches of an optimizer step (a group) gives the
    mean over the whole group. With ``sequence``, that is the mean over the tokens of each sequence and then over
    sequences: every sequence counts the same, whatever its length. With ``token``, it is the mean over all tokens of
    the group, so long sequences count more. A sequence whose tokens are all skipped contributes 0.

    Args:
        lengths: Number of completion tokens of each sequence of the micro-batch.
        reduction: ``sequence`` or ``token``.
        skip_tokens: Number of tokens at the start of each completion that do not count.
        group_lengths: Number of completion tokens of each sequence of the optimizer step. All its micro-batches must
            have the same number of sequences. By default the micro-batch is the whole group.
        importance: Importance weight of each token, `(N,)`; see :class:`TruncatedImportance`.
        group_tokens: Number of tokens that count in the optimizer step, averaged over processes; by default those of
            ``group_lengths``. If given, averaging over processes gives the mean over the tokens of all processes.
        places: Where the tokens of each completion are that count, and of which the first are skipped; by default
            everywhere.

    Returns:
        Weights `(N,)`, N = sum of ``lengths``.
    """
    group_lengths = lengths if group_lengths is None else group_lengths
    places = [range(length) for length in lengths] if places is None else places
    counted = [each[skip_tokens:] for each in places]
    if reduction == "sequence":
        shares = [1 / (max(len(each), 1) * len(lengths)) for each in counted]
    else:
        total = counted_tokens(group_lengths, skip_tokens) if group_tokens is None else group_tokens
        shares = [len(group_lengths) / (len(lengths) * max(total, 1))] * len(lengths)
    weights = torch.zeros(sum(lengths))
    start = 0
    for length, each, share in zip(lengths, counted, shares, strict=True):
        weights[start + each.start : start + each.stop] = share
        start += length
    return weights if importance is None else weights * importance.to(weights.device)
