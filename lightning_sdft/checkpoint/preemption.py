"""What a signal asks for is done between two optimizer steps, by all processes together."""

from __future__ import annotations

from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["Preemption"]


class Preemption(Callback):
    """Ends a run on SIGTERM, and has SLURM requeue it on the signal for that, without losing a step.

    On SIGTERM the running optimizer step is finished, and ``ModelCheckpoint(save_on_exception=True)`` writes a
    checkpoint. The command line then exits with 143, as a process does that SIGTERM ends. One process also leaves a
    validation, which is run when training goes on; several finish theirs first.

    Under SLURM, with ``SLURMEnvironment(auto_requeue=True)``, its signal (SIGUSR1, from ``sbatch --signal``) has
    Lightning write ``hpc_ckpt_N.ckpt`` and requeue the job when the step is finished. Training goes on until SLURM ends
    it.

    Lightning would do either at once, in the middle of an optimizer step, where processes that communicate do not meet.
    """

    def __init__(self) -> None:
        self._stop = False
        self._requeue_signal: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put notes in the place of what Lightning does on signals."""
        connector = trainer._signal_connector
        for name in ("_sigterm_notifier_fn", "_slurm_sigusr_handler_fn"):
            vars(connector).pop(name, None)  # of an earlier run
        if stage == "fit":
            self._requeue = connector._slurm_sigusr_handler_fn
            # There is no hook for either.
            connector._sigterm_notifier_fn = self._note_stop  # type: ignore[method-assign]
            connector._slurm_sigusr_handler_fn = self._note_requeue  # type: ignore[method-assign]

    def _note_stop(self, signum: int, _: FrameType | None) -> None:
        self._stop = True

    def _note_requeue(self, signum: int, _: FrameType | None) -> None:
        self._requeue_signal = signum

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Agree upon what to do before a step begins, and do it.

        Raises:
            SIGTERMException: If a process was asked to end.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        requeue, stop = self._any(trainer, self._requeue_signal or 0, int(self._stop))
        if requeue:
            self._requeue_signal = None
            self._requeue(requeue, None)  # type: ignore[arg-type]  # it does not look at the frame
        if stop:
            raise SIGTERMException

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave the validation if this is the only process.

        Raises:
            SIGTERMException: If it was asked to end.
        """
        if self._stop and trainer.world_size == 1:
            raise SIGTERMException

    @staticmethod
    def _any(trainer: Trainer, *notes: int) -> list[int]:
        """The largest of each note over all processes."""
        if trainer.world_size == 1:
            return list(notes)
        largest = torch.tensor(notes, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return [int(note) for note in largest]
