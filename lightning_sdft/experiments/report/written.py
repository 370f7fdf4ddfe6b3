"""Writes the tables, the evidence and the pictures of an experiment, from nothing but the files of its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_sdft.experiments.chains import BASE_STAGE, Stage, best_chains
from lightning_sdft.experiments.evidence.evidence import Evidence
from lightning_sdft.experiments.evidence.result import Result
from lightning_sdft.experiments.evidence.sequences import SEQUENCE, end_of_sequence, stages_on_their_way
from lightning_sdft.experiments.evidence.text import evidence_text
from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.curves import curves_picture
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.report.pictures import pareto_picture, pass_at_k_picture
from lightning_sdft.experiments.report.results import Row, chosen
from lightning_sdft.experiments.report.retention import retention_table, transfer_table
from lightning_sdft.experiments.report.tables import comparison_table
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.storage.atomic import write_text

__all__ = ["write_report"]


def write_report(source: Path, out: Path) -> list[str]:
    """Write everything that can be made from results, and return the names of the files.

    Args:
        source: Folder with ``experiment.json``, ``results.json``, and the ``details.json`` of each run.
        out: Folder to write to.

    Raises:
        SettingError: If ``source`` has no results.
    """
    experiment, records = Experiment.read(source)
    writers: dict[str, Callable[..., list[str]]] = {"compare": _comparison, "continual": _sequences}
    return writers[experiment.command](experiment, records, source, out)


def _comparison(experiment: Experiment, records: Sequence[Mapping[str, Any]], source: Path, out: Path) -> list[str]:
    rows = list(map(Row.read, records))
    shown = (rows, experiment.methods, experiment.domains, experiment.title)
    write_text(out / "table5.md", comparison_table(*shown))
    results = []
    for domain in experiment.domains:
        for method in (BASE, *experiment.methods):
            for row in chosen(rows, domain, method):
                details = Details.read(row.variant.folder(source / "runs"))
                found = (row.metrics or {}, details, row.validation_accuracy)
                results.append(Result.of(domain, method, row.variant.seed, *found))
    evidence = Evidence.of(results, experiment.questions(experiment.domains), source)
    _write_evidence(evidence, evidence_text(evidence, experiment.title), out)
    pictures = [*pareto_picture(*shown, out), *pass_at_k_picture(*shown, out)]
    return ["table5.md", "evidence.md", "evidence.json", *pictures]


def _sequences(experiment: Experiment, records: Sequence[Mapping[str, Any]], source: Path, out: Path) -> list[str]:
    rows = list(map(Stage.read, records))
    best = best_chains(rows)
    methods, skills, title = experiment.methods, experiment.domains, experiment.title
    write_text(out / "matrix.md", retention_table(best, rows, methods, skills, title))
    runs = source / "runs"
    results = [end_of_sequence(row, BASE, runs) for row in rows if row.number == BASE_STAGE and row.error is None]
    results += [end_of_sequence(stages[-1], stages[-1].chain.method, runs) for stages in best]
    ways = [stage for stages in best for stage in stages_on_their_way(stages, runs)]
    evidence = Evidence.of(results, experiment.questions([SEQUENCE]), source, ways)
    text = f"{evidence_text(evidence, title)}\n{transfer_table(best, methods, skills)}"
    _write_evidence(evidence, text, out)
    return ["matrix.md", "evidence.md", "evidence.json", *curves_picture(best, methods, skills, title, out)]


def _write_evidence(evidence: Evidence, text: str, out: Path) -> None:
    write_text(out / "evidence.md", text)
    write_text(out / "evidence.json", json.dumps(evidence.record(), indent=1) + "\n")
