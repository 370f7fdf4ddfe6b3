"""The optimizer of all methods: AdamW, with a learning rate that rises and falls."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW

__all__ = ["adamw", "warmup_and_cosine"]


def adamw(trained: Iterable[Parameter], learning_rate: float, weight_decay: float, fused: bool) -> AdamW:
    """AdamW on what is trained.

    Args:
        trained: The parameters.
        learning_rate: The peak of the learning rate.
        weight_decay: Decoupled weight decay.
        fused: Whether a step is one kernel: several times faster on a CPU, and without temporary tensors of the size
            of the parameters.
    """
    return AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def warmup_and_cosine(step: int, warmup_steps: int, total: float) -> float:
    """The learning rate at a step as a share of its peak.

    Args:
        step: Optimizer steps done.
        warmup_steps: Steps in which it rises along a line.
        total: Steps in all, at the end of which it has fallen to 0 along a cosine.
    """
    if step <= warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
