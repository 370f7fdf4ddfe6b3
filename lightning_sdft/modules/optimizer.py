"""The optimizer of all methods: AdamW, with linear warm-up and cosine decay of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW

__all__ = ["adamw", "warmup_and_cosine"]


def adamw(trained: Iterable[Parameter], learning_rate: float, weight_decay: float, fused: bool) -> AdamW:
    """AdamW on the trainable parameters.

    Args:
        trained: The trainable parameters.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        fused: Whether a step is one fused kernel: several times faster on a CPU, and without temporary tensors as
            large as the parameters.
    """
    return AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def warmup_and_cosine(step: int, warmup_steps: int, total: float) -> float:
    """The learning rate at a step as a share of its peak.

    Args:
        step: Optimizer steps taken so far.
        warmup_steps: Steps of linear warm-up.
        total: Total number of steps, after which the rate has fallen to 0 along a cosine.
    """
    if step <= warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
