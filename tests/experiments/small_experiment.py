"""A comparison whose results are made up, in the files that a real one leaves behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lightning_sdft.experiments.archive import finish
from lightning_sdft.experiments.evidence.endpoint import Endpoint, named_endpoint
from lightning_sdft.experiments.plan import BASE, Method, Plan, Variant
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.report.results import Row, records
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.pool import Failure
from lightning_sdft.experiments.runs.run import Outcome

METHODS = ("SFT", "SFT + again", "SDFT", "joint")
DOMAINS = ("double", "swap-ends")
SEEDS = (0, 1, 2, 3, 4)
TABLES = ("table5.md", "evidence.md", "evidence.json")
QUESTIONS = 80
RIGHT = {"base": (0.4, 0.95), "SFT": (0.7, 0.5), "SFT + again": (0.65, 0.7), "SDFT": (0.9, 0.93), "joint": (0.95, 0.95)}
"""How often each method is right on the new task, and on prior tasks."""


def plan(seeds: tuple[int, ...] = SEEDS) -> Plan:
    methods = {name: Method([{}], "SFT" if name == "SFT + again" else None) for name in METHODS}
    return Plan(DOMAINS, methods, seeds, [1e-4], ["seed_everything"])


def details(domain: str, method: str, seed: int) -> Details:
    """Verdicts by chance, of which some are missing, and the way that training went."""
    rng = random.Random(f"{domain}/{method}/{seed}")
    new, kept = RIGHT[method]

    def verdicts(name: str, share: float) -> dict[str, bool | None]:
        return {f"{name}-{number}": rng.random() < share for number in range(QUESTIONS)}

    found = {f"test/accuracy/{domain}": verdicts(domain, new)}
    found |= {f"test/prior/{name}": verdicts(name, kept) for name in ("copy", "sort")}
    found["test/prior/sort"][f"sort-{seed}"] = None  # it could not be graded
    steps = {0: (0.4, 0.95)} if method == BASE else {4: (0.5, 0.9), 8: (new, kept)}
    curves = {"val/accuracy": {step: each[0] for step, each in steps.items()}}
    curves |= {f"prior/{name}": {step: each[1] for step, each in steps.items()} for name in ("copy", "average")}
    if method == "SDFT":
        curves["teacher/accuracy"] = {4: 1.0, 8: 0.9}
    return Details(found, curves, {"versions": {"torch": "1"}, "commit": None})


def outcome(found: Details, validation: float) -> Outcome:
    """The outcome that goes with details."""
    means = {}
    for name, verdicts in found.verdicts.items():
        graded = [verdict for verdict in verdicts.values() if verdict is not None]
        means[name] = sum(graded) / len(graded)
    new = next(value for name, value in means.items() if name.startswith("test/accuracy/"))
    kept = [value for name, value in means.items() if name.startswith("test/prior/")]
    metrics = {**means, "test/accuracy": new, "test/prior/average": sum(kept) / len(kept)}
    return Outcome(validation, metrics, 8, None, 1.5, 300.0)


def write_experiment(
    out: Path,
    endpoint: Endpoint | None = None,
    ceilings: tuple[str, ...] = ("joint",),
    seeds: tuple[int, ...] = SEEDS,
    with_details: bool = True,
) -> list[Row]:
    """Write the files of the experiment, in which one run has failed."""
    planned = plan(seeds)
    named = named_endpoint(endpoint, ceilings, planned, out)
    rows = []
    for method in (BASE, *METHODS):
        for variant in planned.variants(method):
            if variant == Variant("double", "joint", 1e-4, 0):
                rows.append(Row.of(variant, Failure("killed by SIGKILL")))
                continue
            found = details(variant.domain, method, variant.seed)
            ended = outcome(found, RIGHT[method][0])
            folder = variant.folder(out / "runs")
            folder.mkdir(parents=True, exist_ok=True)
            if with_details:
                found.write(folder)
            ended.write(folder)
            (folder / "run.json").write_text('{"parts": [{"judge": {"api_key": "secret"}}]}')
            rows.append(Row.of(variant, ended))
    folders = [row.variant.folder(out / "runs") for row in rows]
    Experiment.of("compare", planned, named, ceilings, "Made up", folders).write(out, records(rows))
    return rows


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An experiment and its archive."""
    out = tmp_path_factory.mktemp("packed")
    write_experiment(out)
    (out / "runs/double/sft/rate-0.0001-seed-0/log.txt").write_text("/home/me")
    finish(out, str(out / "experiment.zip"))
    return out, out / "experiment.zip"
