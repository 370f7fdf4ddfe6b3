"""How far a run is: a bar that shows the phase of the step, because a rollout may take a minute, or lines."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from lightning_sdft.callbacks.run_lines import QUIET, RunLines
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.progress import at_clock, is_terminal

__all__ = ["PhaseProgressBar"]

SECONDS_BETWEEN_REFRESHES = 0.25


class PhaseColumn(ProgressColumn):
    """Shows the current phase of the training step."""

    phase = ""

    def render(self, task: Task) -> Text:
        """The phase, in a column of constant width."""
        return Text(f"{self.phase if task.total and not task.finished else '':8}", style="cyan")


class PhaseProgressBar(RichProgressBar):
    """A bar with the phase of the step (rollout, teacher, student, backward), or lines where no bar can move.

    Without a terminal, as in a pipe, a log file or CI, a line is written at the first optimizer step, then at every
    twentieth of the run or every ten minutes, with the mean loss since the last line and the hour at which the run will
    end.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._column = PhaseColumn()
        self._refreshed = 0.0
        self._moves = is_terminal()
        if not self._moves:
            super().disable()
        self._lines = RunLines(written=not self._moves)

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        super().disable()
        self._lines.written = False

    def enable(self) -> None:
        """Show the bar, or write lines."""
        if self._moves:
            super().enable()
        self._lines.written = not self._moves

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Lightning's columns, and the phase."""
        return [*super().configure_columns(trainer), self._column]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics, and when the run will end; not the number of the run, which Lightning shows as one of them."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        left = self._lines.seconds_left(trainer) if trainer.training else None
        return {**metrics, **({"ends at": at_clock(left)} if left else {})}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the module's clock."""
        super().on_train_start(trainer, pl_module)
        self._lines.begin(trainer)
        cast(CausalLMModule, pl_module).clock.listener = self._show

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Time the step."""
        self._lines.batch_begins()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or write a line if one is due."""
        self._lines.batch_ends(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening."""
        super().on_train_end(trainer, pl_module)
        cast(CausalLMModule, pl_module).clock.listener = None
        self._column.phase = ""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation: that of the base model, one in training, or the whole work of ``validate``."""
        super().on_validation_start(trainer, pl_module)
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        quiet = QUIET if trainer.state.fn == "fit" else 0.0
        self._lines.evaluation_begins("validation", int(sum(batches)), quiet)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a test."""
        super().on_test_start(trainer, pl_module)
        self._lines.evaluation_begins("test", int(sum(trainer.num_test_batches)))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to predict."""
        super().on_predict_start(trainer, pl_module)
        self._lines.evaluation_begins("predict", int(sum(trainer.num_predict_batches)))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any, **where: Any) -> None:
        """Move the bar, or write a line if one is due."""
        self._lines.evaluation_batch_ends()
        super().on_validation_batch_end(trainer, pl_module, *batch, **where)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any, **where: Any) -> None:
        """Move the bar, or write a line if one is due."""
        self._lines.evaluation_batch_ends()
        super().on_test_batch_end(trainer, pl_module, *batch, **where)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any, **where: Any) -> None:
        """Move the bar, or write a line if one is due."""
        self._lines.evaluation_batch_ends()
        super().on_predict_batch_end(trainer, pl_module, *batch, **where)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bars of this evaluation; Lightning would keep them hidden, one for each set of each evaluation."""
        super().on_validation_end(trainer, pl_module)
        self._lines.validation_ends(trainer)
        if self.progress is None:
            return
        for task in self.progress.tasks:
            if not task.visible:
                self.progress.remove_task(task.id)
                for column in self.progress.columns:
                    if isinstance(column, ProgressColumn):
                        column._renderable_cache.pop(task.id, None)  # rich would keep what it rendered
        if self.val_progress_bar_id not in self.progress.task_ids:
            self.val_progress_bar_id = None

    def _get_train_description(self, current_epoch: int) -> str:
        """The epoch, of how many if that is limited; Lightning would write `Epoch 0/-2` if it is not."""
        if self.trainer.max_epochs == -1:
            return f"Epoch {current_epoch}".ljust(len(self.validation_description))
        return super()._get_train_description(current_epoch)

    def _show(self, phase: str) -> None:
        self._column.phase = phase
        if time.monotonic() - self._refreshed > SECONDS_BETWEEN_REFRESHES:
            self._refreshed = time.monotonic()
            self.refresh()
