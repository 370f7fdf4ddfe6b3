"""Compares ``lightning-sdft memory`` with what training takes: the peak resident set of SmolLM2-135M on a CPU.

``python -m tests.real.memory`` trains three steps per setting, each in a process of its own with one thread, on rows
whose lengths are known. It ends with an error if an estimate is further from the measurement than a quarter.

The estimate is of what is allocated. glibc by itself keeps some of what was freed, so each setting is measured twice:
with :data:`TIDY` in the environment, which the estimate is compared with, and without.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sdft.commands.memory import MMAP_THRESHOLD
from lightning_sdft.modules import SDFTModule
from lightning_sdft.records import Example
from tests.real.smollm2 import ROOT, model_folder

TOLERANCE = 0.25
WIDTH = 72

TIDY = {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD)}
"""Lets glibc give back what is freed, as the command and configs/trainer/cpu.yaml recommend."""


class EndlessSDFTModule(SDFTModule):
    """SDFT whose responses are as long as their budget: no token ends them."""

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.tokenizer.stop_ids = set()


@dataclass(frozen=True)
class Setting:
    """What is varied; lengths in tokens."""

    method: str
    micro_batch: int = 2
    micro_batches: int = 2
    prompt: int = 64
    completion: int = 192
    shown: int = 256
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f" shown {self.shown}" if self.method != "sft" else ""
        size = f"{self.method:4} {self.micro_batches} x {self.micro_batch} of {self.prompt} + {self.completion}{shown}"
        return " ".join([size, *(option.split("init_args.")[-1] for option in self.options)])


CHECKPOINTING = "--model.init_args.gradient_checkpointing=true"
LORA = "--model.init_args.lora.rank=16"
NF4 = "--model.init_args.lora.base=nf4"
NARROW = "--trainer.precision=bf16-true"

SETTINGS = [
    Setting("sft", micro_batch=1),
    Setting("sft"),
    Setting("sft", micro_batch=4, micro_batches=1),
    Setting("sft", completion=960),
    Setting("sft", completion=960, options=(CHECKPOINTING,)),
    Setting("sft", micro_batch=4, options=("--model.init_args.attention=eager",)),
    Setting("sdft", micro_batch=1),
    Setting("sdft", micro_batch=4),
    Setting("sdft", micro_batch=4, micro_batches=1, options=(CHECKPOINTING,)),
    Setting("sdft", prompt=512, completion=64, shown=1024),
    Setting("sdft", micro_batch=1, micro_batches=24, prompt=512, completion=64, shown=576, options=(CHECKPOINTING,)),
    Setting("sft", options=(LORA,)),
    Setting("sft", completion=960, options=(LORA, CHECKPOINTING)),
    Setting("sdft", options=(LORA,)),
    Setting("sdft", prompt=512, completion=64, shown=1024, options=(LORA,)),
    Setting("sdft", options=(LORA, NF4)),
    Setting("sdft", options=(LORA, NF4, NARROW)),
]


def words(length: Callable[[str], int], tokens: int) -> str:
    """A text that makes something so many tokens long; each further word is a token."""
    return " the" * (100 + tokens - length(" the" * 100))


def rows(setting: Setting, model: Path) -> list[dict[str, str]]:
    """Rows whose prompts and demonstrations have the lengths of a setting."""
    module = SDFTModule(str(model), pretrained=False)
    tokenizer = module.tokenizer

    def prompt(text: str) -> int:
        return len(tokenizer.encode([{"role": "user", "content": text}]))

    question = words(prompt, setting.prompt)

    def shown(text: str) -> int:
        example = Example("", [{"role": "user", "content": question}], text)
        return len(tokenizer.encode(module.teacher_messages(example)))

    if setting.method == "sdft":
        response = words(shown, setting.shown)
    else:
        response = words(lambda text: len(tokenizer.encode_completion(text)), setting.completion)
    return [{"Question": question, "Response": response}] * (3 * setting.micro_batch * setting.micro_batches)


def arguments(setting: Setting, model: Path, file: Path) -> list[str]:
    """What `fit` and `memory` are called with."""
    budgets = {"max_prompt_tokens": setting.prompt, "max_completion_tokens": setting.completion}
    callbacks = ""
    if setting.method == "sdft":
        budgets["max_teacher_prompt_tokens"] = setting.shown
        callbacks = "{class_path: EMATeacher, init_args: {teacher_rate: 0.01}}"
    sizes = {"batch_size": setting.micro_batch * setting.micro_batches, "micro_batch_size": setting.micro_batch}
    endless = (
        ["--trust=tests", "--model.class_path=tests.real.memory.EndlessSDFTModule"] if setting.method == "sdft" else []
    )
    return [
        f"--config={ROOT / 'configs' / 'experiment' / f'smollm2_{setting.method}.yaml'}",
        *endless,
        f"--model.init_args.model={model}",
        *(f"--model.init_args.{name}={value}" for name, value in budgets.items()),
        f"--data.init_args.train={file}",
        *(f"--data.init_args.{name}={value}" for name, value in sizes.items()),
        "--trainer.max_steps=3",
        f"--trainer.callbacks=[{callbacks}]",
        "--trainer.logger=false",
        f"--trainer.default_root_dir={file.parent}",
        "--trainer.enable_checkpointing=false",
        *setting.options,
    ]


@dataclass(frozen=True)
class Usage:
    """What a process took: its peak resident set in bytes, and seconds of a core."""

    peak: int
    seconds: float


def run(command: list[str], log: Path, environment: Mapping[str, str]) -> Usage:
    """Run a command of the package, and see what it takes."""
    own = {name: value for name, value in os.environ.items() if name not in TIDY}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_sdft", *command],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**own, "OMP_NUM_THREADS": "1", **environment},
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{log.read_text()}")
    return Usage(usage.ru_maxrss * 2**10, usage.ru_utime + usage.ru_stime)


def compare(setting: Setting, model: Path, folder: Path) -> float:
    """Print a line of the table; returns the estimate over the measurement."""
    file, record, log = folder / "rows.json", folder / "memory.json", folder / "log.txt"
    file.write_text(json.dumps(rows(setting, model)))
    asked = arguments(setting, model, file)
    run(["memory", *asked, f"--json={record}"], log, {})
    estimate = json.loads(record.read_text())["by_budgets"]
    measured = [run(["fit", *asked], log, environment) for environment in (TIDY, {})]
    ratios = [estimate["peak"] / each.peak for each in measured]
    columns = [f"{estimate['peak'] / 2**20:8,.0f}"]
    for each, ratio in zip(measured, ratios, strict=True):
        columns.append(f"{each.peak / 2**20:8,.0f} {ratio:5.2f} {each.seconds:5.0f} s")
    print(f"{setting!s:{WIDTH}} {' | '.join(columns)} | {estimate['peak_phase']}", flush=True)
    return ratios[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "smollm2", help="where the model is put")
    parser.add_argument("--only", type=int, nargs="+", choices=range(len(SETTINGS)), help="numbers of settings, from 0")
    options = parser.parse_args()
    given = options.model is not None and Path(options.model).is_dir()
    model = options.model if given else model_folder(options.output, options.model)
    chosen = SETTINGS if options.only is None else [SETTINGS[number] for number in options.only]
    print(f"{'peak in MiB, ratio, CPU time':{WIDTH}} estimate | with {', '.join(TIDY)} | without | peak phase")
    with tempfile.TemporaryDirectory() as folder:
        ratios = [compare(setting, Path(model), Path(folder)) for setting in chosen]
    if any(abs(ratio - 1) > TOLERANCE for ratio in ratios):
        sys.exit("an estimate is further from the measurement than a quarter")


if __name__ == "__main__":
    main()
