"""Which tokens of a tree attend to which, as a mask for each kind of attention.

The nodes stand in the order in which a walk through the tree meets them, so the nodes below a node follow it, up to the
last one. A node attends to itself and to those that it is below.

Letters: B rows, L nodes of a row, P tokens of a prefix, to which all attend.

[1] He et al., FlexAttention: The Flexibility of PyTorch with the Performance of FlashAttention, 2024,
https://pytorch.org/blog/flexattention/
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import pad

__all__ = ["additive_mask", "block_mask", "sees"]


def sees(last: Tensor, before: int = 0) -> Tensor:
    """Which nodes attend to which, `(B, L, P + L)`.

    Args:
        last: The last node below each node, `(B, L)`; itself if there is none.
        before: P.
    """
    places = torch.arange(last.shape[1], device=last.device)
    return pad((places <= places[:, None]) & (places[:, None] <= last[:, None]), (before, 0), value=True)


def additive_mask(last: Tensor, before: int, dtype: torch.dtype) -> Tensor:
    """What is added to the products of attention, `(B, 1, L, P + L)`; see :func:`sees`."""
    shape = (len(last), 1, last.shape[1], before + last.shape[1])
    mask = torch.zeros(shape, dtype=dtype, device=last.device)
    return mask.masked_fill_(~sees(last, before)[:, None], torch.finfo(dtype).min)


def block_mask(last: Tensor, before: int) -> BlockMask:
    """The mask of FlexAttention [1], which leaves out blocks in which no node attends to another; see :func:`sees`."""

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        node = (key - before).clamp(min=0)
        return (key < before) | ((node <= query) & (query <= last[row, node]))

    rows, nodes = last.shape
    return create_block_mask(attends, rows, None, nodes, before + nodes, device=last.device)
