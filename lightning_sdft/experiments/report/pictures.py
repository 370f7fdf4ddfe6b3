"""Draws the pictures of a comparison (extra ``plot``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.intervals import Mean
from lightning_sdft.experiments.report.results import Row, best_rate, chosen
from lightning_sdft.experiments.runs.run import ACCURACY

__all__ = ["pareto_picture", "pass_at_k_picture", "save_picture"]

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright colours, which people with colour-blindness can tell apart."""


def pareto_picture(
    rows: Sequence[Row], methods: Sequence[str], domains: Sequence[str], title: str, out: Path
) -> list[str]:
    """Draw what is learned against what is kept, a panel per domain; the best learning rates have intervals.

    Args:
        rows: The runs.
        methods: Methods in their order.
        domains: Domains in their order.
        title: Title of the picture.
        out: Folder to write ``pareto.png`` and ``pareto.svg`` to.

    Returns:
        Names of the files; none without matplotlib, or if there is no prior task.
    """
    if find_spec("matplotlib") is None or all(row.prior_average is None for row in rows):
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 3.4 * len(domains), 3.8), layout="constrained")
    panels = figure.subplots(1, len(domains), squeeze=False)[0]
    for panel, domain in zip(panels, domains, strict=True):
        for number, method in enumerate((BASE, *methods)):
            _draw_method(panel, rows, domain, method, "black" if method == BASE else COLORS[(number - 1) % 7])
        panel.set_title(domain, fontsize=10)
        panel.set_xlabel("prior tasks, average (%)")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("new task (%)")
    shown: dict[str, Any] = {}  # on any panel: a method may have failed on the first
    for panel in panels:
        shown |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    labels = [method for method in (BASE, *methods) if method in shown]
    figure.legend(
        [shown[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=_columns(labels, figure.get_figwidth()),
        frameon=False,
        fontsize=9,
    )
    if title:
        figure.suptitle(title, fontsize=11)
    return save_picture(figure, out, "pareto")


def pass_at_k_picture(
    rows: Sequence[Row], methods: Sequence[str], domains: Sequence[str], title: str, out: Path
) -> list[str]:
    """Draw how often one of k sampled answers is right, a panel per domain, with 95% bands over seeds.

    Args:
        rows: The runs, in which the callback ``PassAtK`` has logged it.
        methods: Methods in their order.
        domains: Domains in their order.
        title: Title of the picture.
        out: Folder to write ``pass_at_k.png`` and ``pass_at_k.svg`` to.

    Returns:
        Names of the files; none without matplotlib, or if nothing was sampled.
    """
    if find_spec("matplotlib") is None or not any(_pass_at_k(row) for row in rows):
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 3.4 * len(domains), 3.8), layout="constrained")
    panels = figure.subplots(1, len(domains), squeeze=False, sharey=True)[0]
    for panel, domain in zip(panels, domains, strict=True):
        for number, method in enumerate((BASE, *methods)):
            curves = [curve for row in chosen(rows, domain, method) if (curve := _pass_at_k(row))]
            if curves:
                color = "black" if method == BASE else COLORS[(number - 1) % 7]
                means = {k: Mean.of([curve[k] for curve in curves]) for k in sorted(curves[0])}
                bands = [[100 * each.band()[end] for each in means.values()] for end in (0, 1)]
                panel.plot(list(means), [100 * each.value for each in means.values()], color=color, label=method)
                panel.fill_between(list(means), *bands, color=color, alpha=0.2, linewidth=0)
        panel.set_xscale("log", base=2)
        panel.set_title(domain, fontsize=10)
        panel.set_xlabel("k answers")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("one of k is right (%)")
    panels[0].legend(frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return save_picture(figure, out, "pass_at_k")


def save_picture(figure: Any, out: Path, name: str) -> list[str]:
    """Write a figure as PNG and SVG, the same bytes each time, and return the names of the files."""
    from matplotlib import rc_context

    figure.savefig(out / f"{name}.png", dpi=160)
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [f"{name}.png", f"{name}.svg"]


def _columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into a picture: about 0.08 inches a letter, and half an inch for the mark."""
    return max(1, min(len(labels), int(width / (0.5 + 0.08 * max(map(len, labels))))))


def _draw_method(panel: Any, rows: Sequence[Row], domain: str, method: str, color: str) -> None:
    """Draw a small point for each learning rate, and a large one with intervals for the best rate."""
    best = best_rate(rows, domain, method)
    rates = sorted(
        {
            row.variant.learning_rate
            for row in rows
            if (row.variant.domain, row.method) == (domain, method) and row.variant.learning_rate is not None
        }
    )
    points = [_point([row for row in rows if _is(row, domain, method, rate)]) for rate in rates if rate != best]
    for point in points:
        if point is not None:
            panel.plot(100 * point[0].value, 100 * point[1].value, "o", color=color, alpha=0.4, markersize=4)
    point = _point(chosen(rows, domain, method))
    if point is not None:
        x, y = point
        errors = {
            name: None if each.half_width is None else [[100 * abs(end - each.value)] for end in each.band()]
            for name, each in (("xerr", x), ("yerr", y))
        }
        marker = "*" if method == BASE else "o"
        panel.errorbar(
            100 * x.value, 100 * y.value, **errors, fmt=marker, color=color, label=method, markersize=8, capsize=2
        )


def _is(row: Row, domain: str, method: str, rate: float | None) -> bool:
    return (row.variant.domain, row.method, row.variant.learning_rate) == (domain, method, rate)


def _point(rows: Sequence[Row]) -> tuple[Mean, Mean] | None:
    """The means over seeds of the prior average and of the new task."""
    pairs = [
        (row.prior_average, row.new_task_accuracy)
        for row in rows
        if row.prior_average is not None and row.new_task_accuracy is not None
    ]
    if not pairs:
        return None
    prior, new = zip(*pairs, strict=True)
    return Mean.of(prior), Mean.of(new)


def _pass_at_k(row: Row) -> dict[int, float]:
    """Pass@k by k on the new task: of the set that is named like the domain, or else of the first set."""
    curves: dict[str, dict[int, float]] = {}
    for name, value in (row.metrics or {}).items():
        match = re.fullmatch(r"test/pass_at_(\d+)/(.+)", name)
        if match is not None and f"{ACCURACY}/{match[2]}" in (row.metrics or {}):  # prior tasks have another prefix
            curves.setdefault(match[2], {})[int(match[1])] = value
    return curves.get(row.variant.domain) or next(iter(curves.values()), {})
