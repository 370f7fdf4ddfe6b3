"""Does SDFT on the laptop model leak? ``python -m tests.leaks`` trains for 2,000 steps and prints how it grew.

Everything of ``configs/experiment/laptop_sdft.yaml`` takes part: teacher, validation, checkpoints, TensorBoard, tables
of rollouts. Only the learning rate is lower: at that of the config, which is for 192 steps, the teacher wears out in
2,000, rollouts grow from 5 tokens to 14, and a step takes more memory because it has more to do. So the length of
rollouts must be level, too. With ``--endless`` it is, at the config's learning rate: nothing ends a rollout before its
budget. The first quarter is warm-up and does not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from lightning_sdft.commands.fit import main
from tests.leaks.watch import Sample, growth, read_samples

CONFIG = Path(__file__).parents[2] / "configs" / "experiment" / "laptop_sdft.yaml"

LOW_RATE = ["--model.init_args.learning_rate=1e-5"]
ENDLESS = ["--model.class_path=tests.real.memory.EndlessSDFTModule"]
"""What keeps rollouts at one length."""

LIMITS = {"live": 1.0, "resident": 1.0, "objects": 20.0, "threads": 0.0, "files": 0.0, "tokens": 0.05}
"""Growth in 100 steps up to which a quantity counts as level; memory is in MiB."""

SMALL = {"train_size": 64, "validation_size": 8, "test_size": 8, "prior_size": 8, "batch_size": 8}
"""Data of a short run: 8 steps an epoch."""


def train(steps: int, folder: Path, every_n_steps: int, arguments: Sequence[str] = LOW_RATE) -> list[Sample]:
    """Train in this process, which should have done nothing before, and return the samples."""
    samples = folder / "samples.jsonl"
    watch = ["--trainer.callbacks+=tests.leaks.watch.LeakWatch", f"--trainer.callbacks.output={samples}"]
    watch += [f"--trainer.callbacks.every_n_steps={every_n_steps}", f"--trainer.logger.save_dir={folder}"]
    length = ["--trainer.max_epochs=-1", f"--trainer.max_steps={steps}"]
    with (folder / "printed.txt").open("w") as file, redirect_stdout(file):
        main(["fit", "--config", str(CONFIG), *length, *arguments, *watch], trust=["tests"])
    return read_samples(samples)


def counted(samples: Sequence[Sample]) -> list[Sample]:
    """Those after the warm-up."""
    return [sample for sample in samples if sample.step > samples[-1].step / 4]


def table(samples: Sequence[Sample]) -> str:
    """How each quantity began, ended and grew."""
    lines = ["quantity   | after warm-up |    at end | growth in 100 steps | limit", "-" * 66]
    for quantity, limit in LIMITS.items():
        first, last = (getattr(each, quantity) for each in (counted(samples)[0], samples[-1]))
        grown = growth(counted(samples), quantity)
        lines.append(f"{quantity:10} | {first:13.1f} | {last:9.1f} | {grown:19.3f} | {limit:5g}")
    return "\n".join(lines)


def leaks(samples: Sequence[Sample]) -> list[str]:
    """Quantities that grow beyond their limit."""
    return [quantity for quantity, limit in LIMITS.items() if growth(counted(samples), quantity) > limit]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Does SDFT on the laptop model leak?")
    parser.add_argument("--steps", type=int, default=2000, help="Optimizer steps.")
    parser.add_argument("--small", action="store_true", help="Small steps and validations, for a short look.")
    parser.add_argument("--endless", action="store_true", help="Nothing ends a rollout before its budget.")
    options = parser.parse_args()
    small = [f"--data.init_args.{name}={value}" for name, value in SMALL.items()]
    with tempfile.TemporaryDirectory() as created:
        found = train(
            options.steps,
            Path(created),
            10,
            [*(ENDLESS if options.endless else LOW_RATE), *(small if options.small else [])],
        )
    print(table(found))
    sys.exit(f"grows: {', '.join(leaks(found))}" if leaks(found) else 0)
