"""The last checkpoints of a run, however often it is interrupted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.settings import Count, Natural, check_ranges

__all__ = ["LastCheckpoints"]


class LastCheckpoints(ModelCheckpoint):
    """Keeps the last checkpoints of a run, and writes one when the run is interrupted.

    Keeps the previous checkpoint in case the newest is lost; ``last.ckpt`` links to the newest. Lightning's
    ModelCheckpoint would never remove the checkpoint that a run resumed from, nor the one that an interruption wrote,
    so that each interruption would take more disk space. By default a checkpoint is written at the end of each
    validation, or of each epoch if there is no validation.

    Args:
        keep: Number of checkpoints to keep. There is one more until the oldest is removed.
        every_n_train_steps: Optimizer steps between two checkpoints.
        train_time_interval: Time between two checkpoints, instead of steps.
        every_n_epochs: Epochs between two checkpoints, instead of steps.
        dirpath: Folder of the checkpoints; by default ``checkpoints`` in the folder of the logger.
        filename: Names of the checkpoints, which must contain ``{step}``.
    """

    def __init__(
        self,
        keep: Count = 2,
        every_n_train_steps: Natural | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: Natural | None = None,
        dirpath: str | Path | None = None,
        filename: str = "step{step:06d}",
    ) -> None:
        check_ranges(LastCheckpoints, locals())
        super().__init__(
            dirpath,
            filename,
            monitor="step",
            mode="max",
            save_top_k=keep,
            save_last="link",
            save_on_exception=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            every_n_train_steps=every_n_train_steps,
            train_time_interval=train_time_interval,
            every_n_epochs=every_n_epochs,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the checkpoint that a run resumes from as it is, until the run has taken a step."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save a checkpoint in the same way as at any other time."""
        if self._should_save_on_exception(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        return previous != current and Path(str(self.dirpath)).absolute() in Path(previous).absolute().parents
