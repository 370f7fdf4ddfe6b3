"""What exact resume needs and Lightning leaves out: generators, and a state between two optimizer steps, always."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lightning_sdft.errors import CheckpointError

__all__ = ["ExactResume"]


class ExactResume(Callback):
    """Makes a run that goes on from a checkpoint equal to one that was never interrupted, bit for bit.

    A checkpoint may be written at any time: after an error, on a signal, during validation. Weights and optimizer are
    then as the last optimizer step left them, while loops, data and generators have moved on. So their state is taken
    at the end of each step, and goes into whatever checkpoint is written before the next one ends. A validation that
    was due and had not ended is run when training goes on (unless ``max_steps`` is reached, for then nothing is run).

    With another number of processes, training goes on with the same examples in the same order, and with the generator
    of the first process in each. Losses are then equal up to rounding.
    """

    def __init__(self) -> None:
        self._loops: dict[str, Any] | None = None  # of Lightning, as the last optimizer step left them
        self._validation_due = False  # since then
        self._generators: dict[str, Any] | None = None  # before what is running: a step or a validation
        self._logged: dict[str, float] = {}  # of the last step, behind whose end loggers get it
        self._restored: dict[str, Any] | None = None
        self._accumulated = 1
        self._last_step = 0
        self._stepping = False

    # The state at the end of a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the generators if a step begins; this hook runs for every micro-batch."""
        self._generators = self._generators or _generators()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """From here to the end of the step, student, teacher and optimizer are not of one step."""
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loops if the optimizer has just stepped."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._loops = trainer.fit_loop.state_dict()
        epoch = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        self._validation_due = epoch._should_check_val_fx(fetcher)  # type: ignore[arg-type]  # it is there in training
        self._logged = _metrics_to_log(trainer)
        self._generators = None
        self._stepping = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the generators, and forget that it had been begun before, as a restored loop says."""
        self._generators = _generators()
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it is not due any more."""
        self._validation_due = False
        self._generators = None

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The generators of each process, what the loops are to be read with, and what loggers may not have got."""
        generators = self._generators or _generators()
        ranks = [generators]
        if torch.distributed.is_initialized():
            ranks = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(ranks, generators)
        state = {"accumulated": self._accumulated, "validation_due": self._validation_due, "logged": self._logged}
        return {"ranks": ranks, **state}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say where the loops were at the end of the last step."""
        if self._loops is not None:
            checkpoint["loops"]["fit_loop"] = deepcopy(self._loops)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count micro-batches as this run does, and have a validation run that was due."""
        state, loops = checkpoint["callbacks"].get(self.state_key), checkpoint["loops"]["fit_loop"]
        if state is None:
            return
        _count_micro_batches(loops, state["accumulated"], trainer.accumulate_grad_batches)
        self._restored = {**state, "loops": deepcopy(loops)}
        if state["validation_due"]:
            _begin_validation(loops)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the generators, behind everything that draws from them on the way here (iterators of loaders)."""
        self._last_step = trainer.global_step
        self._accumulated = trainer.accumulate_grad_batches
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.started:  # type: ignore[attr-defined]  # typed as its base class
            # Behind the last step of an epoch, Lightning would not count the next one, and take it for this at its end.
            trainer.fit_loop.reset_restart_stage()
        if self._restored is not None:
            ranks = self._restored["ranks"]
            _restore(ranks[trainer.global_rank if len(ranks) == trainer.world_size else 0])
            self._loops, self._validation_due = self._restored["loops"], self._restored["validation_due"]
            self._logged = self._restored["logged"]
            self._restored = None
            _restart_curves(trainer)
            # Again, for the run may have ended before they got there.
            trainer._logger_connector.log_metrics(self._logged)  # type: ignore[arg-type]  # it takes numbers as well

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep ModelCheckpoint from saving what is not whole, or where one process would wait for others that do not.

        An optimizer step that was interrupted is not whole. An error in one of several processes is not known to the
        others; SIGTERM is, for they agree upon it.
        """
        whole = self._loops is not None and not self._stepping
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        if not whole or not together or isinstance(exception, CheckpointError):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    callback.save_on_exception = False


def _generators() -> dict[str, Any]:
    """The states of torch's generators in this process."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _metrics_to_log(trainer: Trainer) -> dict[str, float]:
    """What Lightning logs of an optimizer step when all callbacks have had their turn, if it logs this one."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()} | {"epoch": trainer.current_epoch}


def _restart_curves(trainer: Trainer) -> None:
    """Have TensorBoard forget what the interrupted run logged behind the checkpoint, if it is the same curve."""
    start = Event(step=trainer.global_step + 1, session_log=SessionLog(status=SessionLog.START))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment._get_file_writer().add_event(start)


def _count_micro_batches(loops: dict[str, Any], before: int, now: int) -> None:
    """Let counters of micro-batches count larger or smaller ones."""
    for counters in (loops["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
        ready = counters["ready"]
        for name, count in counters.items():
            counters[name] = ready // before * now - (ready - count)


def _begin_validation(loops: dict[str, Any]) -> None:
    """From loops that end a step with the validation behind them, make loops that have just begun it."""
    for counters in (loops["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
        counters["completed"] = counters["processed"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    validation["total"]["ready"] = validation["total"]["started"] = validation["total"]["completed"] + 1
    validation["current"] = dict.fromkeys(validation["current"], 0)
