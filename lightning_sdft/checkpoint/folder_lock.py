"""Keeps two runs from going on in one folder, where each would remove and replace the checkpoints of the other."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.errors import CheckpointError
from lightning_sdft.storage.lock import claim, release

__all__ = ["FolderLock"]


class FolderLock(Callback):
    """Locks the folders of a run's checkpoints while it trains; the first process does so for all processes of a run.

    A process that dies gives them back, however it dies. See :func:`~lightning_sdft.storage.lock.claim`.
    """

    def __init__(self) -> None:
        self._folders: list[Path] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the last callback, so that the folders are locked until the others have saved, after an error too."""
        trainer.callbacks = [*(each for each in trainer.callbacks if each is not self), self]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock the folders.

        Raises:
            CheckpointError: On every process, if another run has locked one.
        """
        saves = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        problem = self._claim_all(trainer) if saves else None
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise CheckpointError(problem)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the folders back."""
        self._release_all()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the folders back."""
        self._release_all()

    def _claim_all(self, trainer: Trainer) -> str | None:
        given = [getattr(each, "dirpath", None) for each in trainer.checkpoint_callbacks]
        for folder in sorted({Path(each) for each in given if each and "://" not in str(each)}):
            holder = claim(folder)
            if holder is not None:
                return (
                    f"{str(folder)!r} is in use: {holder} trains there, and would remove and replace this run's "
                    "checkpoints. Wait for it, end it (kill PID lets it save first), or give this run a folder of its "
                    "own (trainer.logger's version, or the checkpoint callback's dirpath)"
                )
            self._folders.append(folder)
        return None

    def _release_all(self) -> None:
        while self._folders:
            release(self._folders.pop())
