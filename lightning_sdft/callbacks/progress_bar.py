"""The progress bar, which shows the phase of the training step, because a rollout may take a minute."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from lightning_sdft.modules.causal_lm import CausalLMModule

__all__ = ["PhaseProgressBar"]

SECONDS_BETWEEN_REFRESHES = 0.25


class PhaseColumn(ProgressColumn):
    """Shows the current phase of the training step."""

    phase = ""

    def render(self, task: Task) -> Text:
        """The phase, in a column of constant width."""
        return Text(f"{self.phase if task.total and not task.finished else '':8}", style="cyan")


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the phase of the step: rollout, teacher, student, backward."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._column = PhaseColumn()
        self._refreshed = 0.0

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Lightning's columns, and the phase."""
        return [*super().configure_columns(trainer), self._column]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the module's clock."""
        super().on_train_start(trainer, pl_module)
        cast(CausalLMModule, pl_module).clock.listener = self._show

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening."""
        super().on_train_end(trainer, pl_module)
        cast(CausalLMModule, pl_module).clock.listener = None
        self._column.phase = ""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bars of this evaluation; Lightning would keep them hidden, one for each set of each evaluation."""
        super().on_validation_end(trainer, pl_module)
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

    def _show(self, phase: str) -> None:
        self._column.phase = phase
        if time.monotonic() - self._refreshed > SECONDS_BETWEEN_REFRESHES:
            self._refreshed = time.monotonic()
            self.refresh()
