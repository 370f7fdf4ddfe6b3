"""The best checkpoint of a run, by whatever its validation measures."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.data.base import DemonstrationDataModule

__all__ = ["BestCheckpoint"]

ACCURACY, LOSS = "val/accuracy", "val/loss"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best validation, and says by what.

    It is the one with the highest ``val/accuracy``; if no answers are graded, that with the lowest ``val/loss``.
    Without validation of the new task no checkpoint is the best, and those of :class:`LastCheckpoints` remain.

    Args:
        dirpath: Folder of the checkpoint; by default ``checkpoints`` in the folder of the logger.
        filename: Name of the checkpoint, which must contain ``{step}``.
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str = "best-step{step:06d}") -> None:
        super().__init__(dirpath, filename, monitor=ACCURACY, mode="max", auto_insert_metric_name=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose what is watched, before a checkpoint is read."""
        super().setup(trainer, pl_module, stage)
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, DemonstrationDataModule):
            return
        new = [each for each in datamodule.splits.validation if not each.prior]
        if any(each.graders for each in new):
            return
        if new:
            self.monitor, self.mode, self.kth_value = LOSS, "min", torch.tensor(torch.inf)
            kept = f"the one with the lowest {LOSS}, because there are no references to grade answers by"
        else:
            self.save_top_k = 0
            kept = "none, because nothing of the new task is validated"
        if stage == "fit":
            rank_zero_info(f"Best checkpoint: {kept}.")
