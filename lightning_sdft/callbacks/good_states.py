"""Checkpoints of the last good validations, to which training can go back under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.checkpoint.typed_settings import typed_settings
from lightning_sdft.errors import CheckpointError

__all__ = ["GoodStates"]

KEPT = 2


class GoodStates:
    """Keeps two checkpoints: a run may go on from a checkpoint that is older than the newest of them."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the present state. All processes must call this together."""
        path = str(trainer.strategy.broadcast(_folder(trainer) / f"good-step{trainer.global_step:06d}.ckpt"))
        self.paths = [*(each for each in self.paths if each != path), path]
        trainer.save_checkpoint(path)
        while len(self.paths) > KEPT:
            trainer.strategy.remove_checkpoint(self.paths.pop(0))

    def restore(self, trainer: Trainer, module: LightningModule) -> str:
        """Give student, teacher and optimizer the newest good state; all else goes on from where it is.

        Optimizers keep the settings that they were given.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: If there is none any more.
        """
        path = next((each for each in reversed(self.paths) if Path(each).exists()), None)
        if path is None:
            raise CheckpointError(
                f"TeacherWatch cannot go back: none of {self.paths} exists; restore it, or take action=stop"
            )
        settings = [typed_settings(optimizer) for optimizer in trainer.optimizers]
        checkpoint = trainer.strategy.load_checkpoint(path)
        trainer.strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(checkpoint)
        for optimizer, groups in zip(trainer.optimizers, settings, strict=True):
            for group, kept in zip(optimizer.param_groups, groups, strict=True):
                group.update(kept)
        return path

    def state_dict(self) -> dict[str, Any]:
        """The names of the checkpoints."""
        return {"paths": list(self.paths)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the names."""
        self.paths = list(state["paths"])


def _folder(trainer: Trainer) -> Path:
    """Where the run's checkpoints are."""
    folders = [each.dirpath for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    known = next((each for each in folders if each is not None), None)
    return Path(trainer.default_root_dir) / "checkpoints" if known is None else Path(known)
