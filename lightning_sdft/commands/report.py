"""The results of an evaluation as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

__all__ = ["results_table"]

ENDS = ("_low", "_high", "_ungraded")


def results_table(metrics: Mapping[str, float], title: str) -> Table:
    """A row per metric with its 95% interval and the number of answers that could not be graded.

    Args:
        metrics: The logged metrics; ``a_low/b``, ``a_high/b`` and ``a_ungraded/b`` belong to ``a/b``.
        title: Title of the table.
    """
    beside: dict[tuple[str, str], float] = {}
    alone = []
    for name, value in metrics.items():
        owners = [(owner, end) for end in ENDS for owner in _owners(name, end) if owner in metrics]
        beside |= dict.fromkeys(owners, value)
        alone += [] if owners else [name]
    table = Table(title=title)
    table.add_column("metric", no_wrap=True)
    counted = any(end == "_ungraded" for _, end in beside)
    for column in ("value", "95% interval", *(["ungraded"] if counted else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for name in alone:
        low, high, ungraded = (beside.get((name, end)) for end in ENDS)
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        count = [f"{ungraded or 0:.0f}"] if counted else []
        table.add_row(name, f"{metrics[name]:.3f}", interval, *count)
    return table


def _owners(name: str, suffix: str) -> list[str]:
    """The names that a metric may belong to: its own name, without the suffix in one of its parts."""
    parts = name.split("/")
    return [
        "/".join([*parts[:index], part.removesuffix(suffix), *parts[index + 1 :]])
        for index, part in enumerate(parts)
        if part.endswith(suffix)
    ]
