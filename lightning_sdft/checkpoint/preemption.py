"""Handling signals between two optimizer steps, on all processes together."""

from __future__ import annotations

from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["Preemption"]


class Preemption(Callback):
    """Ends a run on SIGTERM, and lets SLURM requeue it on SIGUSR1, without losing an optimizer step.

    On SIGTERM, the running optimizer step is finished, and ``ModelCheckpoint(save_on_exception=True)`` writes a
    checkpoint. The command line then exits with code 143, like any process ended by SIGTERM. A single process also
    interrupts a running validation, which is run after resuming; several processes finish theirs first.

    Under SLURM, with ``SLURMEnvironment(auto_requeue=True)``, SIGUSR1 (from ``sbatch --signal``) makes Lightning write
    ``hpc_ckpt_N.ckpt`` and requeue the job after the running optimizer step. Training continues until SLURM ends the
    job.

    Without this callback, Lightning would do either at once, in the middle of an optimizer step, where processes that
    communicate would wait for each other.
    """

    def __init__(self) -> None:
        self._stop = False
        self._requeue_signal: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's signal handlers by ones that only note the signal."""
        connector = trainer._signal_connector
        for name in ("_sigterm_notifier_fn", "_slurm_sigusr_handler_fn"):
            vars(connector).pop(name, None)  # set by an earlier run
        if stage == "fit":
            self._requeue = connector._slurm_sigusr_handler_fn
            # Lightning has no hook for either of these handlers.
            connector._sigterm_notifier_fn = self._note_stop  # type: ignore[method-assign]
            connector._slurm_sigusr_handler_fn = self._note_requeue  # type: ignore[method-assign]

    def _note_stop(self, signum: int, _: FrameType | None) -> None:
        self._stop = True

    def _note_requeue(self, signum: int, _: FrameType | None) -> None:
        self._requeue_signal = signum

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before an optimizer step, let all processes agree on what the signals ask for, and do it.

        Raises:
            SIGTERMException: If any process has received SIGTERM.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        requeue, stop = self._any(trainer, self._requeue_signal or 0, int(self._stop))
        if requeue:
            self._requeue_signal = None
            self._requeue(requeue, None)  # type: ignore[arg-type]  # the handler ignores the frame
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
        """Interrupt the validation on SIGTERM if this is the only process.

        Raises:
            SIGTERMException: If this process has received SIGTERM.
        """
        if self._stop and trainer.world_size == 1:
            raise SIGTERMException

    @staticmethod
    def _any(trainer: Trainer, *notes: int) -> list[int]:
        """The maximum of each value over all processes."""
        if trainer.world_size == 1:
            return list(notes)
        largest = torch.tensor(notes, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return [int(note) for note in largest]
