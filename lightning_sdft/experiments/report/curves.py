"""Draws the accuracy of skills that are learned one after another (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_sdft.experiments.chains import Stage
from lightning_sdft.experiments.report.intervals import Mean
from lightning_sdft.experiments.report.pictures import COLORS, save_picture

__all__ = ["curves_picture"]


def curves_picture(
    sequences: Sequence[Sequence[Stage]], methods: Sequence[str], skills: Sequence[str], title: str, out: Path
) -> list[str]:
    """Draw the validation accuracy of each skill over all optimizer steps, a panel per method, with 95% bands.

    Args:
        sequences: Whole sequences, each with its base model first.
        methods: Methods in their order.
        skills: Skills in the order in which they are learned.
        title: Title of the picture.
        out: Folder to write ``curves.png`` and ``curves.svg`` to.

    Returns:
        Names of the files; none without matplotlib, or if nothing was validated.
    """
    shown = [name for name in methods if any(each[-1].chain.method == name and each[-1].curves for each in sequences)]
    if find_spec("matplotlib") is None or not shown:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 4.2 * len(shown), 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for panel, method in zip(panels, shown, strict=True):
        found = [stages for stages in sequences if stages[-1].chain.method == method]
        for color, skill in zip(COLORS * len(skills), skills, strict=False):
            _draw(panel, found, skill, color)
        switch = 0
        for stage in found[0][1:-1]:
            switch += stage.steps
            panel.axvline(switch, color="grey", linestyle=":", linewidth=1)
        panel.set_title(method, fontsize=10)
        panel.set_xlabel("optimizer step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return save_picture(figure, out, "curves")


def _draw(panel: Any, sequences: Sequence[Sequence[Stage]], skill: str, color: str) -> None:
    curves = [_curve(stages, skill) for stages in sequences]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [Mean.of([curve[step] for curve in curves]) for step in steps]
    panel.plot(steps, [100 * each.value for each in means], color=color, label=skill)
    bands = [[100 * each.band()[end] for each in means] for end in (0, 1)]
    panel.fill_between(steps, *bands, color=color, alpha=0.2, linewidth=0)


def _curve(stages: Sequence[Stage], skill: str) -> dict[int, float]:
    """The curve of a whole sequence, which begins with the base model's accuracy on the test split."""
    curve, before = {0: stages[0].accuracies[skill]}, 0
    for stage in stages[1:]:
        curve |= {before + step: value for step, value in stage.curves.get(skill, {}).items()}
        before += stage.steps
    return curve
