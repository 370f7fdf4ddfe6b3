"""What is logged of each optimizer step beside its loss: the gradient norm, the time of its phases, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.distributed.processes import process_count
from lightning_sdft.modules.checks import (
    batch_examples,
    check_budgets,
    check_complete,
    check_finite,
    check_group_ends,
    gradient_norm,
)
from lightning_sdft.modules.cut_rollouts import CutRollouts
from lightning_sdft.modules.timing import PhaseClock, now, peak_memory
from lightning_sdft.records import Example

__all__ = ["StepLog"]


class Trained(Protocol):
    """A module that is trained on examples, and times the phases of its steps."""

    clock: PhaseClock
    max_completion_tokens: int

    def missing(self, example: Example) -> str | None:
        """What an example lacks to be trained on, or ``None``."""

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit the token budgets of training, or ``None``."""


class StepLog(Callback):
    """Logs the gradient norm, time and memory of steps, and stops a step that would destroy weights.

    The names are ``train/gradient_norm``, ``time/<phase>`` in seconds, ``speed/prompts_per_second`` (of all processes),
    ``speed/share_<phase>`` of the time from a step's first micro-batch to its end, and ``memory/peak``.

    The modules of this package add it to the trainer's callbacks.
    """

    def __init__(self) -> None:
        self._examples: Sequence[Example] = ()
        self._cut = CutRollouts()
        self._began = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Keep the examples of the step, so that an error can name them.

        The examples of a loader without data module are checked here, for they could not be before training.
        """
        examples = batch_examples(batch)  # refuses a batch that has no group
        if getattr(trainer, "datamodule", None) is None:
            module = cast(Trained, pl_module)
            check_complete(examples, module.missing, type(module).__name__)
            check_budgets(examples, module.training_problem)
        if batch.index == 0:
            self._began = now()
        self._examples = batch.group.examples
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Start timing the backward pass."""
        cast(Trained, pl_module).clock.start("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop timing the backward pass."""
        cast(Trained, pl_module).clock.stop("backward")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm of the gradient.

        Raises:
            DataError: If the step would be taken inside a group.
            NonFiniteLossError: If the norm is infinite or not a number.
        """
        check_group_ends(self._batch)
        norm = gradient_norm(pl_module.parameters())
        pl_module.log("train/gradient_norm", norm, batch_size=1)
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # a scaler skips such steps
            check_finite("gradient", norm, trainer.global_step, self._examples)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Log time and memory at every ``log_every_n_steps``-th optimizer step, and warn if most rollouts were cut."""
        if not batch.is_last:
            return
        module = cast(Trained, pl_module)
        if "rollout/truncated" in trainer.callback_metrics:
            self._cut.add(float(trainer.callback_metrics["rollout/truncated"]), module.max_completion_tokens)
        phases = module.clock.read()
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set outside of __init__
            step = now() - self._began
            prompts = len(batch.group.examples) * process_count()
            pl_module.log("speed/prompts_per_second", prompts / step, batch_size=1)
            for phase, seconds in phases.items():
                pl_module.log(f"time/{phase}", seconds, batch_size=1)
                pl_module.log(f"speed/share_{phase}", seconds / step, batch_size=1)
            pl_module.log("memory/peak", peak_memory(), batch_size=1)
