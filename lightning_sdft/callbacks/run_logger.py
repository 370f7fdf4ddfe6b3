"""TensorBoard, with what matters first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

__all__ = ["FIRST", "LAST", "RunLogger", "shown_as"]

DETAILS = re.compile(r"epoch$|lr-|memory/|[^/]+(/[^/]+)?_(low|high|ungraded)(/|$)")
"""Metrics that are drawn within other charts, or that few look at: ends of intervals, the epoch, the learning rate."""

FIRST = "at a glance/"
"""A group that TensorBoard lists, and opens, before all others."""

GLANCE = {
    "val/accuracy": f"{FIRST}new task",
    "val/loss": f"{FIRST}new task, loss",
    "prior/average": f"{FIRST}prior tasks",
    "teacher/accuracy": f"{FIRST}teacher",
    "teacher/gain": f"{FIRST}teacher's gain",
}
"""Metrics that are shown there too, under names so short that TensorBoard shows them whole."""

LAST = "~details/"
"""A group that TensorBoard lists below all others."""


def shown_as(name: str) -> str:
    """The name under which :class:`RunLogger` shows a metric.

    Example:
        >>> [shown_as(name) for name in ("val/accuracy", "val/accuracy_low", "prior_high/gsm8k", "epoch")]
        ['val/accuracy', '~details/val/accuracy_low', '~details/prior_high/gsm8k', '~details/epoch']
    """
    return f"{LAST}{name}" if DETAILS.match(name) else name


class RunLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, which shows first what was learned and kept, and last what few look at.

    What a run is about is shown in a group ``at a glance`` as well. The names of ends of intervals, ``epoch``, the
    learning rate and memory begin with ``~details/``; the ends are drawn as margins in the tab Custom Scalars
    (:class:`Dashboard`).
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics under the names that they are shown as, but for NaN: nothing was measured, as with HParams."""
        measured = {name: value for name, value in metrics.items() if isinstance(value, dict) or value == value}
        first = {GLANCE[name]: value for name, value in measured.items() if name in GLANCE}
        super().log_metrics({**first, **{shown_as(name): value for name, value in measured.items()}}, step)
