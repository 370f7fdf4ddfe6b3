"""The table of skills that are learned one after another, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_sdft.experiments.chains import Stage, retention
from lightning_sdft.experiments.report.intervals import Mean
from lightning_sdft.experiments.runs.run import AVERAGE
from lightning_sdft.progress.texts import count_text

__all__ = ["retention_table", "transfer_table"]

NUMBERS = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer")


def retention_table(
    sequences: Sequence[Sequence[Stage]],
    rows: Sequence[Stage],
    methods: Sequence[str],
    skills: Sequence[str],
    title: str = "",
) -> str:
    """The accuracies after every stage, and the measures computed from them.

    Args:
        sequences: Whole sequences, each with its base model first.
        rows: All stages, also of sequences that are not shown.
        methods: Methods in their order.
        skills: Skills in the order in which they are learned.
        title: Heading.
    """
    lines = [f"# {title}", ""] if title else []
    lines += ["Percent, mean over seeds ± half of the 95% interval.", ""]
    for method in methods:
        found = [stages for stages in sequences if stages[-1].chain.method == method]
        if found:
            lines += _matrix(method, found, skills)
    lines += _numbers(sequences, methods, skills)
    failed = [row for row in rows if row.error is not None]
    if failed:
        lines += ["Failed; their sequences are left out above:", "", *(f"- {row}" for row in failed), ""]
    return "\n".join(lines)


def _matrix(method: str, sequences: Sequence[Sequence[Stage]], skills: Sequence[str]) -> list[str]:
    rate = sequences[0][-1].chain.learning_rate
    lines = [f"## {method}", "", f"Learning rate {rate:g}, {count_text(len(sequences), 'seed')}.", ""]
    lines += [f"| after | {' | '.join(skills)} | prior tasks |", f"|---|{'---|' * (len(skills) + 1)}"]
    for stages in zip(*sequences, strict=True):
        cells = [Mean.of([stage.accuracies[skill] for stage in stages]).percent() for skill in skills]
        prior = [stage.prior[AVERAGE] for stage in stages if AVERAGE in stage.prior]
        cells.append(Mean.of(prior).percent() if prior else "-")
        lines.append(f"| {stages[0].skill or 'nothing (base)'} | {' | '.join(cells)} |")
    return [*lines, ""]


def _numbers(sequences: Sequence[Sequence[Stage]], methods: Sequence[str], skills: Sequence[str]) -> list[str]:
    titles = [name.replace("_", " ") for name in NUMBERS]
    lines = [f"| method | {' | '.join(titles)} |", f"|---|{'---|' * len(NUMBERS)}"]
    for method in methods:
        found = [retention(stages, skills) for stages in sequences if stages[-1].chain.method == method]
        if not found:
            continue
        cells = []
        for name in NUMBERS:
            values = [value for each in found if (value := getattr(each, name)) is not None]
            cells.append(Mean.of(values).percent() if values else "-")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def transfer_table(sequences: Sequence[Sequence[Stage]], methods: Sequence[str], skills: Sequence[str]) -> str:
    """Each skill on its way: where it started, before it was learned, right after, and at the end.

    Args:
        sequences: Whole sequences, each with its base model first.
        methods: Methods in their order.
        skills: Skills in the order in which they are learned.
    """
    lines = ["## Transfer, and where each skill started", ""]
    lines += ["Forward transfer is the second column minus the first, backward transfer the last minus the third.", ""]
    lines += [
        "| method | skill | base | before it was learned | right after | at the end |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods:
        found = [stages for stages in sequences if stages[-1].chain.method == method]
        for place, skill in enumerate(skills if found else ()):
            cells = [
                Mean.of([stages[number].accuracies[skill] for stages in found]).percent()
                for number in (0, place, place + 1, len(skills))
            ]
            lines.append(f"| {method} | {skill} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
