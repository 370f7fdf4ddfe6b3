"""Dynamic Fine-Tuning.

[1] Wu et al., On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification, 2025,
    https://arxiv.org/abs/2508.05629
"""

from __future__ import annotations

from torch import Tensor

from lightning_sdft.losses import HeadLoss, dynamic_fine_tuning
from lightning_sdft.modules.sft import SFTModule

__all__ = ["DFTModule"]


class DFTModule(SFTModule):
    """DFT [1]: SFT with each token's loss multiplied by the token's probability, without gradient through it.

    Watch ``train/nll`` rather than ``train/loss``, which falls towards 0 early and is no log-perplexity.
    The arguments are those of :class:`SFTModule`.
    """

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> HeadLoss:
        """The loss of target tokens `(N,)` from hidden states `(N, D)`."""
        return dynamic_fine_tuning(hidden, self.policy.head, targets, weights)
