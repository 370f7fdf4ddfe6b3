"""The optimizer of all methods: AdamW, with linear warm-up and cosine decay of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["adamw", "warmup_and_cosine"]


def adamw(
    trained: Sequence[Parameter],
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    trainer: Trainer,
    scale: Callable[[], float] = lambda: 1.0,
) -> OptimizerLRSchedulerConfig:
    """AdamW on the trainable parameters, and the schedule of its learning rate.

    A step is one fused kernel where Lightning allows it: several times faster on a CPU, and without temporary tensors
    as large as the parameters.

    Args:
        trained: The trainable parameters.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        warmup_steps: Steps of linear warm-up.
        trainer: Knows the precision and the total number of steps.
        scale: Gives a factor on the rate, which may change under way.
    """
    # Lightning's mixed precision refuses to clip the gradients of a fused optimizer.
    fused = not isinstance(trainer.precision_plugin, MixedPrecision)
    optimizer = AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)
    scheduler = LambdaLR(optimizer, lambda step: scale() * warmup_and_cosine(step, warmup_steps, trainer))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_and_cosine(step: int, warmup_steps: int, trainer: Trainer) -> float:
    """The learning rate at a step as a share of its peak: linear warm-up, then a cosine that ends at 0.

    Args:
        step: Optimizer steps taken so far.
        warmup_steps: Steps of linear warm-up.
        trainer: Knows the total number of steps.
    """
    if step <= warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    # Read only after the warm-up: while the optimizer is set up, it would discard the data's restored position.
    progress = (step - warmup_steps) / max(1, trainer.estimated_stepping_batches - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
