"""What the runs of the real study measured while they were trained: tables and a picture."""

from __future__ import annotations

from collections import defaultdict
from math import isnan
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LEARNED = 0.9
"""New-task accuracy at which methods are compared."""

CURVES = {"new task": "val/accuracy", "general": "prior/average", "KL": "val/kl_to_base_prior"}
"""Shown of each run; the KL is from the base model on general questions, in nats an answer."""

Values = dict[str, float]
"""What of :data:`CURVES` was measured at one step, by name."""


def curves(run: Path) -> dict[int, Values]:
    """What a run has measured, by the number of optimizer steps taken."""
    found: dict[int, Values] = {}
    for folder in {path.parent for path in run.rglob("events.out.tfevents.*")}:
        scalars = EventAccumulator(str(folder)).Reload()
        for name in CURVES if CURVES["new task"] in scalars.Tags()["scalars"] else ():
            for event in scalars.Scalars(CURVES[name]) if CURVES[name] in scalars.Tags()["scalars"] else ():
                if not isnan(event.value):
                    # A step is logged by its index, but for step 0, which is before the first.
                    found.setdefault(event.step + 1 if event.step else 0, {})[name] = event.value
    # At the end of training the last validation is logged once more, under the next index.
    return {step: values for step, values in sorted(found.items()) if step - 1 not in found or step == 1}


def report(compared: Path) -> str:
    """Two Markdown tables: the curves, and what is kept at the first step at which the new task is learned.

    Args:
        compared: The folder that ``lightning-sdft compare`` wrote.
    """
    runs = {path.parent: curves(path.parent) for path in sorted(compared.rglob("run.json"))}
    lines = [f"| run | step: {' / '.join(CURVES)} |", "|---|---|"]
    matched = [f"| run | first step at {LEARNED} | {' | '.join(CURVES)} |", f"|---|---|{'---|' * len(CURVES)}"]
    learned: dict[str, list[Values | None]] = {}
    for run, measured in runs.items():
        name = f"{run.parent.name}, {run.name}"
        shown = (f"{step}: {' / '.join(_cells(values))}" for step, values in measured.items())
        lines.append(f"| {name} | {'; '.join(shown)} |")
        if measured.keys() <= {0}:  # the base model, or a run that has just begun
            continue
        step = next((step for step, values in measured.items() if values.get("new task", 0) >= LEARNED), None)
        values = None if step is None else {"step": step, **measured[step]}
        learned.setdefault(_method(run), []).append(values)
        matched.append(_row(name, values))
    for name, seeds in learned.items():
        reached = [values for values in seeds if values is not None]
        every = set.intersection(*(set(values) for values in reached)) if reached else set()
        average = {each: mean(values[each] for values in reached) for each in every}
        matched.append(_row(f"**{name}**: mean of {len(reached)} of {len(seeds)} runs", average or None))
    return "\n".join([*lines, "", *matched])


def _row(name: str, values: Values | None) -> str:
    """A row of the table at the first step at which the new task is learned, or of one that has not."""
    step = "never" if values is None else f"{values['step']:.0f}"
    return f"| {name} | {step} | {' | '.join(_cells(values or {}))} |"


def _cells(values: Values) -> list[str]:
    return [f"{values[name]:.2f}" if name in values else "-" for name in CURVES]


def picture(compared: Path, out: Path) -> None:
    """Draw a panel for each of :data:`CURVES`, a line for each method and rate: the mean of its seeds, which are dots.

    Args:
        compared: The folder that ``lightning-sdft compare`` wrote.
        out: The picture's file.
    """
    methods: defaultdict[str, list[dict[int, Values]]] = defaultdict(list)
    for path in sorted(compared.rglob("run.json")):
        if not (measured := curves(path.parent)).keys() <= {0}:
            methods[_method(path.parent)].append(measured)
    figure = Figure(figsize=(0.4 + 3.6 * len(CURVES), 3.6), layout="constrained")
    for panel, shown in zip(figure.subplots(1, len(CURVES), sharex=True), CURVES, strict=True):
        for name, seeds in methods.items():
            points = defaultdict(list)
            for step, values in (each for seed in seeds for each in seed.items()):
                points[step] += [values[shown]] if shown in values else []
            steps = sorted(step for step, values in points.items() if values)
            (line,) = panel.plot(steps, [mean(points[step]) for step in steps], label=name, linewidth=1.4)
            dots = [(step, value) for step in steps for value in points[step]]
            panel.plot(*zip(*dots, strict=True), ".", color=line.get_color(), markersize=4)
        panel.set(title=shown, xlabel="optimizer step", ylim=(0, None))
        panel.grid(alpha=0.3)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(out, dpi=130)


def _method(run: Path) -> str:
    """The method and the learning rate of a run, by its folder."""
    return f"{run.parent.name}, {run.name.rpartition('-seed-')[0]}"
