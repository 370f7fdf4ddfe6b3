"""The tables and the picture of a stability comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from matplotlib.figure import Figure

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.intervals import Mean
from tests.stability.records import Record

HEADER = (
    "| | runs | new task: best | at the end | lowest end | runs that fell by .10 (step, median) "
    "| warned before (steps) | prior skills | of these, copy sort increment | the other four |"
)
COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def table(records: Sequence[Record]) -> str:
    """What each remedy ends with, over all skills and seeds, as Markdown; accuracies with 95% intervals, in percent."""
    methods = list(dict.fromkeys(each.method for each in records))
    lines = [HEADER, f"|{'---|' * (HEADER.count('|') - 1)}"]
    return "\n".join(
        [*lines, *(_row(method, [each for each in records if each.method == method]) for method in methods)]
    )


def by_skill(records: Sequence[Record]) -> str:
    """New task at the end (lowest) / seven prior skills, means over the seeds of a skill, as Markdown, in percent."""
    skills, methods = (list(dict.fromkeys(getattr(each, name) for each in records)) for name in ("domain", "method"))
    lines = [f"| | {' | '.join(skills)} |", f"|{'---|' * (len(skills) + 1)}"]
    for method in methods:
        cells = [_cell([each for each in records if (each.method, each.domain) == (method, skill)]) for skill in skills]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(runs: Sequence[Record]) -> str:
    if not runs:
        return ""
    ends = [100 * each.end for each in runs]
    return f"{mean(ends):.0f} ({min(ends):.0f}) / {100 * mean(map(_prior, runs)):.0f}"


def _prior(run: Record) -> float:
    """Mean accuracy on the seven prior skills."""
    return (run.kept(False) * 3 + run.kept(True) * 4) / 7


def _row(method: str, runs: Sequence[Record]) -> str:
    fallen = [each.fell for each in runs if each.fell is not None]
    cells = [
        method,
        str(len(runs)),
        _mean(runs, lambda run: run.best),
        _mean(runs, lambda run: run.end),
        f"{100 * min(each.end for each in runs):.1f}",
        "" if method == BASE else f"{len(fallen)}" + (f" ({median(fallen):.0f})" if fallen else ""),
        _warned(runs),
        _mean(runs, _prior),
        _mean(runs, lambda run: run.kept(False)),
        _mean(runs, lambda run: run.kept(True)),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(runs: Sequence[Record], value: Callable[[Record], float | None]) -> str:
    values = [found for run in runs if (found := value(run)) is not None]
    return Mean.of(values).percent() if values else ""


def _warned(runs: Sequence[Record]) -> str:
    """Steps from the warning to the fall of each run that fell; how many never fell, but were warned of."""
    ahead = sorted(each.fell - each.warned for each in runs if each.fell is not None and each.warned is not None)
    needless = sum(each.fell is None and each.warned is not None for each in runs)
    return ", ".join(map(str, ahead)) + (f"; {needless} that did not fall" if needless else "")


def picture(records: Sequence[Record], out: Path) -> None:
    """Draw the new task over the steps: a panel per skill, a line per remedy, a triangle per first warning."""
    trained = [each for each in records if each.method != BASE]
    domains, methods = (
        list(dict.fromkeys(values)) for values in zip(*((e.domain, e.method) for e in trained), strict=True)
    )
    figure = Figure(figsize=(0.6 + 4.2 * len(domains), 4.6), layout="constrained")
    panels = figure.subplots(1, len(domains), squeeze=False, sharey=True)[0]
    for panel, domain in zip(panels, domains, strict=True):
        for number, method in enumerate(methods):
            runs = [each for each in trained if (each.domain, each.method) == (domain, method)]
            steps = sorted(set.intersection(*(set(each.curve) for each in runs))) if runs else []
            means = [Mean.of([each.curve[step] for each in runs]) for step in steps]
            color, style = COLORS[number % len(COLORS)], ("-", "--")[number // len(COLORS) % 2]
            panel.plot(steps, [100 * each.value for each in means], style, color=color, label=method, linewidth=1.4)
            bands = [[100 * each.band()[end] for each in means] for end in (0, 1)]
            panel.fill_between(steps, *bands, color=color, alpha=0.1, linewidth=0)
            warned = [each.warned for each in runs if each.warned is not None]
            panel.plot(warned, [-4] * len(warned), "^", color=color, markersize=5)
        panel.set(title=domain, xlabel="optimizer step", ylim=(-8, 104))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("new task (%); triangles: the watch's first warning")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9
    )
    figure.savefig(out / "stability.png", dpi=130)
