"""Reads the runs of a stability comparison: the curve of the new task, and when the watch warned."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from lightning_sdft.experiments.plan import Variant
from lightning_sdft.experiments.runs.run import read_curves

FALL = 0.10
"""A run has worn out when its new task is this far below its best."""

SEEN = ("copy", "sort", "increment")
"""The prior skills that "retention of three" holds; the other four are held out from it."""


@dataclass(frozen=True)
class Record:
    """A run of 800 steps.

    Args:
        method: The remedy.
        domain: The new skill.
        seed: The seed.
        curve: Validation accuracy on the new skill, by step.
        end: Accuracy on the new skill at the end, test split.
        prior: Accuracy on each prior skill at the end, test split.
        warned: Step of the watch's first warning; ``None`` if it gave none, or was not there.
    """

    method: str
    domain: str
    seed: int
    curve: dict[int, float]
    end: float
    prior: dict[str, float]
    warned: int | None

    @property
    def best(self) -> float | None:
        """The best validation accuracy of the new skill."""
        return max(self.curve.values(), default=None)

    @property
    def fell(self) -> int | None:
        """The first step at which the new skill was ``FALL`` below its best so far; ``None`` if it never was."""
        best = 0.0
        for step, accuracy in sorted(self.curve.items()):
            best = max(best, accuracy)
            if accuracy <= best - FALL + 1e-6:
                return step
        return None

    def kept(self, held_out: bool) -> float:
        """Mean accuracy on the prior skills that "retention of three" holds, or on those that it never sees."""
        values = [value for name, value in self.prior.items() if (name in SEEN) != held_out]
        return sum(values) / len(values)


def read_records(results: Path) -> list[Record]:
    """The runs of a comparison that ended well, the base model included.

    Args:
        results: Folder that ``compare`` wrote to.
    """
    rows: list[dict[str, Any]] = json.loads((results / "results.json").read_text())
    return [_record(results, row) for row in rows if row["error"] is None]


def _record(results: Path, row: dict[str, Any]) -> Record:
    variant = Variant(row["domain"], row["method"], row["learning_rate"], row["seed"])
    folder = variant.folder(results / "runs")
    trained = row["learning_rate"] is not None
    return Record(
        row["method"],
        row["domain"],
        row["seed"],
        read_curves(folder).get("val/accuracy", {}) if trained else {},
        row["new_task_accuracy"],
        row["prior"],
        min(_warnings(folder), default=None),
    )


def _warnings(folder: Path) -> Iterable[int]:
    for file in folder.glob("tensorboard/events.*"):
        for event in EventFileLoader(str(file)).Load():
            if any(value.tag.startswith("teacher/watch") for value in event.summary.value):
                yield event.step
