"""Losses as pure functions of tensors: they take hidden states and the output head."""

from lightning_sdft.losses.clipped import Clipped
from lightning_sdft.losses.distillation import distillation_loss
from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL, JensenShannon, ReverseKL
from lightning_sdft.losses.focus import TokenFocus
from lightning_sdft.losses.fused import HeadLoss, head_loss
from lightning_sdft.losses.head import Head
from lightning_sdft.losses.importance import TruncatedImportance
from lightning_sdft.losses.information_bound import InformationBound
from lightning_sdft.losses.likelihood import cross_entropy, dynamic_fine_tuning
from lightning_sdft.losses.target import AgreementProduct, DisagreementMixture, GeometricMixture, Target
from lightning_sdft.losses.top_k import TopK
from lightning_sdft.losses.toward import Toward
from lightning_sdft.losses.weights import Reduction, counted_tokens, token_weights

__all__ = [
    "AgreementProduct",
    "Clipped",
    "DisagreementMixture",
    "Distribution",
    "Divergence",
    "ForwardKL",
    "GeometricMixture",
    "Head",
    "HeadLoss",
    "InformationBound",
    "JensenShannon",
    "Reduction",
    "ReverseKL",
    "Target",
    "TokenFocus",
    "TopK",
    "Toward",
    "TruncatedImportance",
    "counted_tokens",
    "cross_entropy",
    "distillation_loss",
    "dynamic_fine_tuning",
    "head_loss",
    "token_weights",
]
