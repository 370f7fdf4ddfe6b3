"""No checkpoint holds weights that are infinite or not a number."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule

from lightning_sdft.distributed.processes import any_process
from lightning_sdft.distributed.sharding import local_part
from lightning_sdft.errors import CheckpointError

__all__ = ["check_finite_weights", "has_finite_weights"]


def has_finite_weights(module: LightningModule) -> bool:
    """Whether all trained weights are finite. A frozen one stays as it is, and a teacher is as finite as its student.

    All processes must call this together.
    """
    parts = [local_part(each.detach()) for each in module.parameters() if each.requires_grad]
    # The largest weight, not the sum of squares, which overflows in half precision.
    largest = torch.nn.utils.get_total_norm([each for each in parts if each.numel()], norm_type=torch.inf)
    return not any_process(not torch.isfinite(largest))


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
