"""What the fused loss takes while it is computed (:mod:`lightning_sdft.losses.fused`).

It is arithmetic and no rehearsal, for an accelerator works on larger chunks than a CPU and with other copies.

Letters: D width, V vocabulary; n tokens of a chunk, s of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_sdft.losses.fused import CHUNK_ELEMENTS, STRIP_ELEMENTS

__all__ = ["logits_memory"]

STRIP_COPIES = {1: 3, 2: 6}
"""Matrices of a strip's logits that a loss of one or of two models has at a time, about."""


def logits_memory(
    tokens: int,
    width: int,
    vocabulary: int,
    heads: Sequence[torch.dtype],
    models: int = 1,
    products: torch.dtype | None = None,
    accelerator: bool = False,
) -> int:
    """Bytes that go when the loss is there; gradients of hidden states and head stay, and are not among them.

    There are `n V` products of each model; of each head that is not in the precision of the factors, `V D`; two
    matrices `n D`; and at a time either copies of a strip's logits `s V`, or the gradient `n V` in the precision of the
    factors. A CPU multiplies no narrow factors into a wide result: it gets narrowed factors in the wide precision.

    Args:
        tokens: Tokens in the loss.
        width: D.
        vocabulary: V.
        heads: Precision of each head that is read: the student's, and a teacher's that is not the same.
        models: Models whose logits the loss takes.
        products: Precision of the factors under autocast; by default that of the heads.
        accelerator: Whether it is computed on an accelerator.
    """
    place = "accelerator" if accelerator else "cpu"
    chunk = min(max(CHUNK_ELEMENTS[place] // vocabulary // 16, 1) * 16, tokens) * vocabulary
    strip = min(max(STRIP_ELEMENTS[place] // vocabulary, 1) * vocabulary, chunk)
    wide = torch.promote_types(heads[0], torch.float32)
    factors = [products or head for head in heads]
    stored = [factor if accelerator else wide for factor in factors]
    copies = [kept.itemsize for head, kept in zip(heads, stored, strict=True) if kept != head]
    narrowed = 0 if factors[0] == wide else factors[0].itemsize + (0 if accelerator else wide.itemsize)
    return (
        models * chunk * wide.itemsize
        + sum(copies) * vocabulary * width
        + 2 * chunk // vocabulary * width * wide.itemsize
        + max(STRIP_COPIES[models] * strip * wide.itemsize, chunk * narrowed)
    )
