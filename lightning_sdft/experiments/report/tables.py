"""The tables of a comparison, as Markdown, in the layout of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.intervals import Mean
from lightning_sdft.experiments.report.results import Row, best_rate, chosen
from lightning_sdft.experiments.runs.run import AVERAGE

__all__ = ["comparison_table"]


def comparison_table(rows: Sequence[Row], methods: Sequence[str], domains: Sequence[str], title: str = "") -> str:
    """New task, each prior task and their average, by domain and method, each method at its best learning rate.

    Args:
        rows: The runs.
        methods: Methods in their order.
        domains: Domains in their order.
        title: Heading.
    """
    lines = [f"# {title}", ""] if title else []
    lines += ["Percent, mean over seeds ± half of the 95% interval; learning rates chosen on the validation split.", ""]
    for domain in domains:
        lines += _domain_table(rows, methods, domain)
    pairs = [(domain, method) for domain in domains for method in methods]
    unknown = [f"{method} on {domain}" for domain, method in pairs if _unvalidated(rows, domain, method)]
    if unknown:
        lines += [
            "No learning rate could be chosen without `val/accuracy`; give the data a validation split with references"
        ]
        lines += ["or the method one learning rate:", "", *(f"- {each}" for each in unknown), ""]
    failed = [row for row in rows if row.error is not None]
    if failed:
        lines += ["Failed, and left out above:", "", *(f"- {row}" for row in failed), ""]
    return "\n".join(lines)


def _domain_table(rows: Sequence[Row], methods: Sequence[str], domain: str) -> list[str]:
    here = [row for row in rows if row.variant.domain == domain]
    tasks = list(dict.fromkeys(task for row in here for task in row.prior if task != AVERAGE))
    lines = [f"## {domain}", "", f"| method | rate | seeds | new task | {' | '.join([*tasks, 'Avg.'])} |"]
    lines.append(f"|---|---|---{'|---' * (len(tasks) + 2)}|")
    for method in (BASE, *methods):
        found = chosen(here, domain, method)
        rate = best_rate(here, domain, method)
        cells = [
            method,
            "" if rate is None else f"{rate:g}",
            str(len(found)),
            _cell(found, lambda r: r.new_task_accuracy),
        ]
        cells += [_cell(found, lambda row, task=task: row.prior.get(task)) for task in tasks]  # type: ignore[misc]
        cells.append(_cell(found, lambda row: row.prior_average))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _unvalidated(rows: Sequence[Row], domain: str, method: str) -> bool:
    """Whether there are results, but no validation accuracy to choose a learning rate by."""
    found = [row for row in rows if (row.variant.domain, row.method) == (domain, method) and row.error is None]
    return bool(found) and best_rate(found, domain, method) is None


def _cell(rows: Sequence[Row], value: Callable[[Row], float | None]) -> str:
    values = [found for row in rows if (found := value(row)) is not None]
    return Mean.of(values).percent() if values else "-"
