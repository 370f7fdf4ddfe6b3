"""A real model learns a real task: SmolLM2-135M routes messages, by SFT, by SDFT as in the paper and as preflight says.

``python -m tests.real.study`` takes the weights as :mod:`tests.real.smollm2` does, and rows from the real files. It
asks ``preflight`` for a proposal, runs ``tests/real/routing.yaml``, and prints the curves: the share of
test messages and of general questions that are answered correctly. The same command goes on where it stopped. With
``--benchmarks arc_easy piqa hellaswag`` every trained model and the base are asked these as well (``table5.md``).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.real.smollm2 import ROOT, command, model_folder

DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data")) / "routing"
OUT = Path("runs/real_study")
LEARNED = 0.9
"""New-task accuracy at which methods are compared."""

CURVES = {"new task": "val/accuracy", "general": "prior/average", "KL": "val/kl_to_base_prior"}
"""Shown of each run; the KL is from the base model on general questions, in nats an answer."""


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


def curves(run: Path) -> dict[str, dict[int, float]]:
    """Accuracies of a run, by step."""
    (events,) = {path.parent for path in run.rglob("events.out.tfevents.*")}
    scalars = EventAccumulator(str(events)).Reload()
    return {
        name: {event.step: event.value for event in scalars.Scalars(tag)}
        for name, tag in CURVES.items()
        if tag in scalars.Tags()["scalars"]
    }


def report() -> str:
    """Two Markdown tables: the curves, and what is kept at the first step at which the new task is learned."""
    lines, learned = [], []
    for run in sorted(path.parent for path in (OUT / "compare").rglob("outcome.json")):
        found = curves(run)
        if len(found) < len(CURVES):  # the base model, which has no curve
            continue
        new, general, kl = found.values()
        name = f"{run.parent.name} | {run.name}"
        steps = [f"{step}: {new[step]:.2f} / {general[step]:.2f} / {kl[step]:.2f}" for step in sorted(new)]
        lines.append(f"| {name} | {' | '.join(steps)} |")
        first = next((step for step in sorted(new) if new[step] >= LEARNED), None)
        learned.append(f"| {name} | {'never | ' if first is None else f'{first} | {general[first]:.3f}'} |")
    return "\n".join(["step: new task / general / KL", *lines, "", f"first at {LEARNED}: step, general", *learned])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train, test and general.jsonl")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--benchmarks", nargs="+", default=[], help="tasks of lm-eval, which are fetched from the hub")
    parser.add_argument("--include_path", help="folder of task files of your own")
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
    if arguments.benchmarks:
        prior = {"tasks": arguments.benchmarks, "limit": arguments.limit, "include_path": arguments.include_path}
        compare += ["--prior", json.dumps(prior)]
    command("compare", *compare, "--jobs", str(arguments.jobs))
    print(report())


if __name__ == "__main__":
    main()
