"""What exact resume needs beyond Lightning: generator states, and a state that is always between optimizer steps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lightning_sdft.checkpoint.finite import has_finite_weights
from lightning_sdft.errors import CheckpointError
from lightning_sdft.teacher import TeacherUpdate

__all__ = ["ExactResume"]


class ExactResume(Callback):
    """Makes a resumed run equal, bit for bit, to a run that was never interrupted.

    A checkpoint may be written at any time: after an error, on a signal, during validation. The weights and the
    optimizer are then as the last optimizer step left them, while the loops, the data loader and the random number
    generators have moved on. So we record their state at the end of each optimizer step, and every checkpoint that is
    written before the end of the next step contains that state. A validation that was due and had not finished is run
    after resuming (unless ``max_steps`` is reached, because then nothing is run).

    With another number of processes, training resumes with the same examples in the same order, and every process gets
    the generator state of the first one. Losses are then equal up to rounding.
    """

    def __init__(self) -> None:
        self._loops: dict[str, Any] | None = None  # state of Lightning's loops at the end of the last optimizer step
        self._validation_due = False  # whether a validation was due at that time and has not finished
        self._generators: dict[str, Any] | None = None  # states before the running step or validation
        self._logged: dict[str, float] = {}  # metrics of the last step, which loggers get after its end
        self._restored: dict[str, Any] | None = None
        self._accumulated = 1
        self._last_step = 0
        self._stepping = False
        self._within_group = False  # whether a micro-batch has begun since the last optimizer step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go before all callbacks but those that update the teacher: whichever of them saves finds a whole step.

        A new list, because Lightning is going through the present one.
        """
        teachers = [each for each in trainer.callbacks if isinstance(each, TeacherUpdate)]  # type: ignore[attr-defined]
        first = [*teachers, self]
        others = [each for each in trainer.callbacks if each not in first]  # type: ignore[attr-defined]
        trainer.callbacks = [*first, *others]  # type: ignore[attr-defined]

    # The state at the end of a step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the generators' states at the first micro-batch of an optimizer step."""
        self._generators = self._generators or _generators()
        self._within_group = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note that until the end of the step, student, teacher and optimizer do not belong to the same step."""
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the state of the loops if the optimizer has just stepped."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._loops = trainer.fit_loop.state_dict()
        epoch = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        self._validation_due = epoch._should_check_val_fx(fetcher)  # type: ignore[arg-type]  # not None in training
        self._logged = _metrics_to_log(trainer)
        self._generators = None
        self._stepping = self._within_group = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the generators' states, and undo that a restored loop counts this validation as already begun."""
        self._generators = self._generators or _generators()
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation is no longer due."""
        self._validation_due = False
        if not self._within_group:  # else the states before the group are those to go on from
            self._generators = None

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The generator states of all processes, and what :meth:`on_load_checkpoint` and the loggers need."""
        generators = self._generators or _generators()
        ranks = [generators]
        if torch.distributed.is_initialized():
            ranks = [{} for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(ranks, generators)
        state = {"accumulated": self._accumulated, "validation_due": self._validation_due, "logged": self._logged}
        return {"ranks": ranks, **state}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the state that the loops had at the end of the last optimizer step.

        Raises:
            CheckpointError: If an optimizer step has begun and not ended.
        """
        if self._stepping:
            raise CheckpointError(
                "a checkpoint cannot be saved between on_before_optimizer_step and on_train_batch_end, because no run "
                "could go on exactly from the middle of an optimizer step; save in on_train_batch_end"
            )
        if self._loops is not None:
            checkpoint["loops"]["fit_loop"] = deepcopy(self._loops)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Convert the counts of micro-batches to this run's micro-batch size, and start a validation that was due."""
        state, loops = checkpoint["callbacks"].get(self.state_key), checkpoint["loops"]["fit_loop"]
        if state is None:
            return
        _count_micro_batches(loops, state["accumulated"], trainer.accumulate_grad_batches)
        self._restored = {**state, "loops": deepcopy(loops)}
        if state["validation_due"]:
            _begin_validation(loops)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the generators, after everything that draws from them before training (iterators of loaders)."""
        self._last_step = trainer.global_step
        self._accumulated = trainer.accumulate_grad_batches
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.started:  # type: ignore[attr-defined]  # typed as its base class
            # After the last step of an epoch, Lightning would not count the next epoch as a new one.
            trainer.fit_loop.reset_restart_stage()
        if self._restored is not None:
            ranks = self._restored["ranks"]
            _restore(ranks[trainer.global_rank if len(ranks) == trainer.world_size else 0])
            self._loops, self._validation_due = self._restored["loops"], self._restored["validation_due"]
            self._logged = self._restored["logged"]
            self._restored = None
            _restart_curves(trainer)
            # Log the last step's metrics again, because the run may have ended before the loggers got them.
            trainer._logger_connector.log_metrics(self._logged)  # type: ignore[arg-type]  # it takes numbers as well

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep ModelCheckpoint from saving an inconsistent state, and from waiting for processes that do not save.

        The state is inconsistent if an optimizer step was interrupted. If one of several processes has an error, the
        others do not know of it and do not save; SIGTERM is different, because the processes agree on it. Nor are
        weights saved that are not finite.
        """
        whole = self._loops is not None and not self._stepping
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        saves = whole and together and not isinstance(exception, CheckpointError)
        if not (saves and has_finite_weights(pl_module)):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    callback.save_on_exception = False


def _generators() -> dict[str, Any]:
    """The states of this process's torch generators."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _metrics_to_log(trainer: Trainer) -> dict[str, float]:
    """The metrics that Lightning logs for an optimizer step after all callbacks have run, if it logs this step."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return {}
    return {name: float(value) for name, value in connector.metrics["log"].items()} | {"epoch": trainer.current_epoch}


def _restart_curves(trainer: Trainer) -> None:
    """Make TensorBoard discard what the interrupted run logged after the checkpoint, if it logs to the same folder."""
    start = Event(step=trainer.global_step + 1, session_log=SessionLog(status=SessionLog.START))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment._get_file_writer().add_event(start)


def _count_micro_batches(loops: dict[str, Any], before: int, now: int) -> None:
    """Convert counters of micro-batches from ``before`` per optimizer step to ``now`` per optimizer step."""
    for counters in (loops["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
        ready = counters["ready"]
        for name, count in counters.items():
            counters[name] = ready // before * now - (ready - count)


def _begin_validation(loops: dict[str, Any]) -> None:
    """Change the state of loops that have finished a step so that they have just begun the validation after it."""
    for counters in (loops["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
        counters["completed"] = counters["processed"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    validation["total"]["ready"] = validation["total"]["started"] = validation["total"]["completed"] + 1
    validation["current"] = dict.fromkeys(validation["current"], 0)
