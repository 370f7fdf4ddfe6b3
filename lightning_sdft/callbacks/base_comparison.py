"""The result of a run in one table: the base model against the trained one."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

__all__ = ["BaseComparison"]


class BaseComparison(Callback):
    """Prints accuracies before and after training: what was learned, and what was forgotten.

    The base model is evaluated by Lightning's sanity check, so ask for all of it: ``num_sanity_val_steps: -1``. Its
    accuracies become the first point of the curves. The trained model's are those of the last validation.
    """

    def __init__(self) -> None:
        self.base: dict[str, float] = {}
        self._table: Table | None = None

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the accuracies of the base model."""
        if trainer.ckpt_path is not None:  # resumed between two epochs: what was checked is not the base model
            return
        self.base = _accuracies(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self.base, step=0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the last validation."""
        trained = _accuracies(trainer)
        if trainer.is_global_zero and self.base and trained:
            self._table = comparison_table(self.base, trained, type(pl_module).__name__, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, now that no progress bar draws over it."""
        if self._table is not None:
            Console().print(self._table)
            self._table = None

    def state_dict(self) -> dict[str, Any]:
        """The base model's accuracies, for a resumed run is not at the base any more."""
        return {"base": self.base}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base model's accuracies."""
        self.base = state_dict["base"]


def _accuracies(trainer: Trainer) -> dict[str, float]:
    metrics = trainer.callback_metrics.items()
    return {name: value.item() for name, value in metrics if name.startswith(("val/accuracy", "prior/"))}


def comparison_table(base: dict[str, float], trained: dict[str, float], method: str, steps: int) -> Table:
    """A row per evaluation set, new skills first, with the means of both kinds.

    Args:
        base: Accuracies of the base model by metric name.
        trained: Accuracies of the trained model.
        method: Name of the method, for the title.
        steps: Optimizer steps taken, for the title.
    """
    table = Table(title=f"{method} after {steps} steps")
    table.add_column("accuracy")
    for column in ("base", "trained", "change"):
        table.add_column(column, justify="right")
    labels = {"val/accuracy/": "new: ", "prior/": "prior: "}
    means = {"val/accuracy": "new task", "prior/average": "average of prior skills"}
    for prefix, label in labels.items():
        for name in (each for each in trained if each.startswith(prefix) and each not in means):
            _add_row(table, label + name.removeprefix(prefix), base.get(name), trained[name])
    table.add_section()
    for name, label in means.items():
        if name in trained:
            _add_row(table, label, base.get(name), trained[name], style="bold")
    return table


def _add_row(table: Table, label: str, base: float | None, trained: float, style: str = "") -> None:
    before, change = ("-", "-") if base is None else (f"{base:.3f}", f"{trained - base:+.3f}")
    table.add_row(label, before, f"{trained:.3f}", change, style=style)
