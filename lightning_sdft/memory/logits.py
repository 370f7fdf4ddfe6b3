"""The memory of the fused loss while it is computed (:mod:`lightning_sdft.losses.fused`).

It is calculated and not rehearsed, because an accelerator works on larger chunks than a CPU and makes other copies.

Letters: D width, V vocabulary; n tokens of a chunk, s tokens of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_sdft.losses.fused import CHUNK_ELEMENTS, STRIP_ELEMENTS

__all__ = ["logits_memory"]

STRIP_COPIES = {1: 3, 2: 6}
"""About how many matrices of a strip's logits exist at a time, by the number of models in the loss."""


def logits_memory(
    tokens: int,
    width: int,
    vocabulary: int,
    heads: Sequence[torch.dtype],
    models: int = 1,
    products: torch.dtype | None = None,
    accelerator: bool = False,
) -> int:
    """Temporary bytes freed once the loss exists; excludes gradients of hidden states and head.

    They are `n V` logits of each model; a copy `V D` of each head that is not in the precision of the factors; two
    matrices `n D`; and either the copies of a strip's logits `s V`, or the gradient `n V` in the precision of the
    factors, whichever is larger. A CPU cannot multiply narrow factors into a wide result: it widens the narrowed head,
    and for each product both factors.

    Args:
        tokens: Number of tokens in the loss.
        width: D.
        vocabulary: V.
        heads: Precision of each head: the student's, and the teacher's if it has a head of its own.
        models: Number of models whose logits are in the loss.
        products: Precision of the factors under autocast; by default that of the heads.
        accelerator: Whether the loss is computed on an accelerator.
    """
    place = "accelerator" if accelerator else "cpu"
    rows = min(max(CHUNK_ELEMENTS[place] // vocabulary // 16, 1) * 16, tokens)
    strip = min(max(STRIP_ELEMENTS[place] // vocabulary, 1), rows)
    head, wide = vocabulary * width, torch.promote_types(heads[0], torch.float32)
    factors = [products or each for each in heads]
    stored = [factor if accelerator else wide for factor in factors]
    kinds = zip(heads, factors, stored, strict=True)
    copies = [kept.itemsize for own, factor, kept in kinds if not own == factor == kept]
    narrow = [0 if each == wide else each.itemsize for each in factors]
    narrowed = rows * vocabulary * narrow[0]
    if any(narrow) and not accelerator:
        narrowed = (rows * vocabulary if narrow[0] else 0) * wide.itemsize + head * (max(narrow) + wide.itemsize)
    return (
        models * rows * vocabulary * wide.itemsize
        + sum(copies) * head
        + 2 * rows * width * wide.itemsize
        + max(STRIP_COPIES[models] * strip * vocabulary * wide.itemsize, narrowed)
    )
