"""Holds all weights near those that training started from.

[1] Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional Networks, 2018,
    https://arxiv.org/abs/1802.01483
"""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_sdft.errors import SettingError
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.settings import Positive, check_ranges

__all__ = ["L2SP"]


class L2SP(Callback):
    """L2-SP [1]: adds `weight / 2 ||w - w_0||^2` to the loss of any method, where w_0 are the weights at the start.

    Its gradient, `weight (w - w_0)`, is added before each optimizer step, ahead of clipping; ``train/loss`` is without
    it. A copy of the model that training started from stays in memory. It is read again when a run goes on, so
    checkpoints do not grow.

    Args:
        weight: Weight of the penalty.

    Raises:
        SettingError: If it is out of range, or, when training starts, with ``lora``, which leaves those weights as they
            are.
    """

    def __init__(self, weight: Positive = 0.01) -> None:
        check_ranges(L2SP, locals())
        self.weight = weight

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the weights that training started from."""
        module = cast(CausalLMModule, pl_module)
        if module.lora is not None:
            raise SettingError("L2SP holds weights that lora does not change; leave it out, or use weight_decay")
        module.base_policy()

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradient of the penalty."""
        module = cast(CausalLMModule, pl_module)
        for ours, start in zip(module.policy.parameters(), module.base_policy().parameters(), strict=True):
            if ours.grad is not None:
                ours.grad.add_(ours - start, alpha=self.weight)
