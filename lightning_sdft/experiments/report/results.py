"""The results of the runs of an experiment, one row per run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import mean
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lightning_sdft.experiments.plan import Variant
from lightning_sdft.experiments.runs.pool import Failure
from lightning_sdft.experiments.runs.run import ACCURACY, AVERAGE, PRIOR, Outcome

__all__ = ["Row", "best_rate", "chosen", "records", "write_hyperparameters"]


@dataclass(frozen=True)
class Row:
    """A run and its results, or why it failed.

    Args:
        variant: Which run it is.
        validation_accuracy: New-task accuracy on the validation split, by which learning rates are chosen.
        metrics: Metrics of the test split, by name.
        seconds: Wall-clock time.
        peak_memory: Peak memory in MiB.
        error: Why it failed.
    """

    variant: Variant
    validation_accuracy: float | None = None
    metrics: Mapping[str, float] | None = None
    seconds: float | None = None
    peak_memory: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, variant: Variant, what: Outcome | Failure) -> Row:
        """The row of a run that has ended."""
        if isinstance(what, Failure):
            return cls(variant, error=str(what))
        return cls(variant, what.validation_accuracy, what.metrics, what.seconds, what.peak_memory)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Row:
        """The row of a record."""
        variant = Variant(record["domain"], record["method"], record["learning_rate"], record["seed"])
        metrics = None if record["error"] is not None else record["metrics"]
        found = (record[name] for name in ("validation_accuracy", "seconds", "peak_memory", "error"))
        validation, seconds, peak_memory, error = found
        return cls(variant, validation, metrics, seconds, peak_memory, error)

    @property
    def method(self) -> str:
        """The method."""
        return self.variant.method

    @property
    def new_task_accuracy(self) -> float | None:
        """Accuracy on the new task, test split."""
        return None if self.metrics is None else self.metrics.get(ACCURACY)

    @property
    def prior(self) -> dict[str, float]:
        """Accuracy on each prior task, test split."""
        found = {} if self.metrics is None else self.metrics
        return {name.removeprefix(PRIOR): value for name, value in found.items() if name.startswith(PRIOR)}

    @property
    def prior_average(self) -> float | None:
        """Mean over prior tasks."""
        return self.prior.get(AVERAGE)

    def record(self) -> dict[str, Any]:
        """The row as JSON; if a run is repeated, only ``seconds`` and ``peak_memory`` differ."""
        prior = {name: value for name, value in self.prior.items() if name != AVERAGE}
        return {
            "method": self.variant.method,
            "domain": self.variant.domain,
            "seed": self.variant.seed,
            "learning_rate": self.variant.learning_rate,
            "new_task_accuracy": self.new_task_accuracy,
            "prior": prior,
            "prior_average": self.prior_average,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
            "validation_accuracy": self.validation_accuracy,
            "metrics": dict(sorted((self.metrics or {}).items())),
            "error": self.error,
        }

    def __str__(self) -> str:
        rate = "" if self.variant.learning_rate is None else f" at {self.variant.learning_rate:g}"
        name = f"{self.variant.method} on {self.variant.domain}{rate}, seed {self.variant.seed}: "
        if self.error is not None:
            return f"{name}FAILED: {self.error}"
        new, prior = (
            "-" if value is None else f"{value:.3f}" for value in (self.new_task_accuracy, self.prior_average)
        )
        return f"{name}new task {new}, prior {prior}, {self.seconds:.0f} s"


def best_rate(rows: Iterable[Row], domain: str, method: str) -> float | None:
    """The learning rate of a method with the best mean validation accuracy; of equal ones, the lowest.

    Rates are compared on the seeds that all of them have, if there are any. Runs that failed do not count. ``None`` if
    all runs failed, if nothing was trained, or if several rates were tried and nothing was validated.
    """
    accuracies: dict[float, dict[int, float]] = {}
    for row in rows:
        rate, accuracy = row.variant.learning_rate, row.validation_accuracy
        if (row.variant.domain, row.method) == (domain, method) and rate is not None and row.error is None:
            accuracies.setdefault(rate, {}).update({} if accuracy is None else {row.variant.seed: accuracy})
    if len(accuracies) == 1:
        return next(iter(accuracies))
    validated = [rate for rate in sorted(accuracies) if accuracies[rate]]
    common = set.intersection(*(set(accuracies[rate]) for rate in validated)) if validated else set()

    def validation(rate: float) -> float:
        return mean(value for seed, value in accuracies[rate].items() if seed in common or not common)

    return max(validated, key=validation, default=None)


def chosen(rows: Sequence[Row], domain: str, method: str) -> list[Row]:
    """The rows of a method at its best learning rate, without those that failed."""
    rate = best_rate(rows, domain, method)
    return [
        row
        for row in rows
        if (row.variant.domain, row.variant.method, row.variant.learning_rate) == (domain, method, rate)
        and row.error is None
    ]


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """All rows as JSON."""
    return [row.record() for row in rows]


def write_hyperparameters(rows: Iterable[Row], folder: Path) -> None:
    """Write rows to TensorBoard's tab HParams, and remove earlier ones."""
    rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            if row.error is not None:
                continue
            arguments = {
                "method": row.variant.method,
                "domain": row.variant.domain,
                "seed": row.variant.seed,
                "learning_rate": row.variant.learning_rate or 0.0,
            }
            values = {"new_task_accuracy": row.new_task_accuracy, "prior_average": row.prior_average}
            found = {name: value for name, value in values.items() if value is not None}
            writer.add_hparams(arguments, found, run_name="/".join(map(str, arguments.values())).replace(" ", ""))
