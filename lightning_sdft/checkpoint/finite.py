"""No checkpoint holds weights that are infinite or not a number."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch.distributed.tensor import DTensor

from lightning_sdft.errors import CheckpointError

__all__ = ["check_finite_weights", "has_finite_weights"]


def has_finite_weights(module: LightningModule) -> bool:
    """Whether all trained weights are finite. A frozen one stays as it is, and a teacher is as finite as its student.

    If weights are sharded, all processes must call this together.
    """
    with torch.no_grad():
        weights = [each.detach() for each in module.parameters() if each.requires_grad]
        # The largest weight, not the sum of squares, which overflows in half precision.
        largest = torch.nn.utils.get_total_norm(weights, norm_type=torch.inf)
    return bool(torch.isfinite(largest.full_tensor() if isinstance(largest, DTensor) else largest))


def check_finite_weights(module: LightningModule) -> None:
    """Refuse to save weights that are infinite or not a number.

    Raises:
        CheckpointError: If there are any.
    """
    if not has_finite_weights(module):
        raise CheckpointError(
            f"the weights at step {module.global_step} are infinite or not a number, so they are not saved; earlier "
            "checkpoints are unchanged. Go on from one of them with a lower learning rate"
        )
