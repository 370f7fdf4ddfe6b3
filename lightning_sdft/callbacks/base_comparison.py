"""The result of a run in one table: the base model against the trained one."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_sdft.progress import count_text

__all__ = ["BaseComparison", "comparison_columns", "comparison_rows"]

Row = tuple[str, str, str, str, str]

MEASURED = ("val/accuracy", "val/loss", "prior")
"""Beginnings of the names of all metrics in the table."""

ACCURACIES = ("val/accuracy", "prior/")

LABELS = {"val/accuracy/": "new: ", "prior/": "prior: ", "val/loss/": "loss, new: ", "prior_loss/": "loss, prior: "}
"""How the rows of sets are called, by the beginning of their metric's name."""

MEANS = {
    "val/accuracy": "new task",
    "prior/average": "average of prior skills",
    "val/loss": "loss on the new task",
    "prior_loss/average": "average loss on prior skills",
}
"""How the rows of averages are called."""


class BaseComparison(Callback):
    """Prints accuracies before and after training: what was learned, and what was forgotten.

    Where answers are not graded, it is the losses of the demonstrations. Lightning's sanity check evaluates the base
    model, so let it evaluate everything: ``num_sanity_val_steps: -1``. The base model's accuracies become the first
    point of the curves, and its average on the new task a line of its own, ``val/base_accuracy``. The trained model's
    are those of the last validation.
    """

    def __init__(self) -> None:
        self.base: dict[str, float] = {}
        self.trained: dict[str, float] = {}
        self.step = 0
        self._before: dict[str, Tensor] = {}
        self._table: Table | None = None

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the accuracies of the base model."""
        if trainer.ckpt_path is not None:  # resumed between two epochs: what was checked is not the base model
            return
        self.base = _accuracies(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self.base, step=0)
        self._log_line(trainer)

    def _log_line(self, trainer: Trainer) -> None:
        if "val/accuracy" in self.base:
            for logger in trainer.loggers:
                logger.log_metrics({"val/base_accuracy": self.base["val/accuracy"]}, step=trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what other callbacks, such as PriorTasks, have measured of the base model when training starts."""
        if trainer.global_step == 0 and trainer.ckpt_path is None:
            self.base = _accuracies(trainer) | self.base

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was measured before, to know what this validation measures: other callbacks leave theirs there."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the line of the base on; keep the accuracies for checkpoints, with the optimizer step they are of."""
        if trainer.sanity_checking:
            return
        self._log_line(trainer)
        new = {name for name, value in trainer.callback_metrics.items() if value is not self._before.get(name)}
        self.trained = {name: value for name, value in _accuracies(trainer).items() if name in new}
        self.step = trainer.global_step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the base model with the last validation."""
        trained = _accuracies(trainer)
        if trainer.is_global_zero and self.base and trained:
            self._table = comparison_table(self.base, trained, type(pl_module).__name__, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, now that no progress bar can overwrite it."""
        if self._table is not None:
            Console().print(self._table)
            self._table = None

    def state_dict(self) -> dict[str, Any]:
        """The base model's accuracies, which a resumed run can no longer measure, and those of the last validation."""
        return {"base": self.base, "trained": self.trained, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the accuracies."""
        self.base = state_dict["base"]
        self.trained, self.step = state_dict.get("trained", {}), state_dict.get("step", 0)


def _accuracies(trainer: Trainer) -> dict[str, float]:
    metrics = trainer.callback_metrics.items()
    return {name: value.item() for name, value in metrics if name.startswith(MEASURED)}


def comparison_table(base: dict[str, float], trained: dict[str, float], method: str, steps: int) -> Table:
    """A row per evaluation set, new skills first, and then the averages over new and over prior skills.

    Args:
        base: Accuracies of the base model by metric name.
        trained: Accuracies of the trained model.
        method: Name of the method, for the title.
        steps: Optimizer steps taken, for the title.
    """
    table = Table(title=f"{method} after {count_text(steps, 'step')}")
    first, *others = comparison_columns(trained)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    sets, means = comparison_rows(base, trained)
    for row in sets:
        table.add_row(*row)
    table.add_section()
    for row in means:
        table.add_row(*row, style="bold")
    return table


def comparison_columns(trained: dict[str, float]) -> Row:
    """The titles of the columns, by what was measured."""
    graded = any(name.startswith(ACCURACIES) for name in trained)
    return ("accuracy" if graded else "loss, nats per token", "base", "trained", "95%", "change")


def comparison_rows(base: dict[str, float], trained: dict[str, float]) -> tuple[list[Row], list[Row]]:
    """The cells under :func:`comparison_columns` of each evaluation set, new skills first, and of the averages.

    Args:
        base: Accuracies of the base model by metric name.
        trained: Accuracies of the trained model.
    """
    sets = [
        _row(label + name.removeprefix(prefix), name, base, trained)
        for prefix, label in LABELS.items()
        for name in trained
        if name.startswith(prefix) and name not in MEANS
    ]
    return sets, [_row(label, name, base, trained) for name, label in MEANS.items() if name in trained]


def _row(label: str, name: str, base: dict[str, float], trained: dict[str, float]) -> Row:
    value = trained[name]
    before, change = (f"{base[name]:.3f}", f"{value - base[name]:+.3f}") if name in base else ("-", "-")
    return label, before, f"{value:.3f}", _interval(trained, name), change


def _interval(metrics: dict[str, float], name: str) -> str:
    """The interval of a metric, from its ends, which are logged beside it."""
    prefix = next(each for each in MEASURED if name.startswith(each))
    low, high = (metrics.get(f"{prefix}_{end}{name.removeprefix(prefix)}") for end in ("low", "high"))
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
