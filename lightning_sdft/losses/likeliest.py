"""The most probable next tokens.

Letters: N tokens, D width, k tokens asked for, n tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.head import Head

__all__ = ["likeliest"]

CHUNK = 64
"""Tokens whose logits exist at the same time."""


@torch.no_grad()
def likeliest(hidden: Tensor, head: Head, count: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The most probable next tokens at each position, over the full vocabulary.

    Args:
        hidden: Hidden states at the positions that predict the tokens, `(N, D)`.
        head: The output head that turns them into logits.
        count: Number of tokens for each position, k; fewer if the vocabulary is smaller.
        temperature: The logits are divided by it, as in the loss.

    Returns:
        Probabilities, the highest first, and token ids, both `(N, k)`.
    """
    head = head.gathered()
    found = []
    for part in hidden.split(CHUNK):
        probabilities = Distribution.of(head(part) / temperature).probabilities
        found.append(probabilities.topk(min(count, probabilities.shape[-1])))
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
