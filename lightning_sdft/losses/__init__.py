"""Losses as pure functions of tensors, on hidden states and heads."""

from lightning_sdft.losses.divergence import Divergence, ForwardKL, JensenShannon, ReverseKL, distillation_loss
from lightning_sdft.losses.head import Head, HeadLoss, head_loss
from lightning_sdft.losses.likelihood import cross_entropy, dynamic_fine_tuning
from lightning_sdft.losses.weights import Reduction, token_weights

__all__ = [
    "Divergence",
    "ForwardKL",
    "Head",
    "HeadLoss",
    "JensenShannon",
    "Reduction",
    "ReverseKL",
    "cross_entropy",
    "distillation_loss",
    "dynamic_fine_tuning",
    "head_loss",
    "token_weights",
]
