"""Compares ``lightning-sdft memory`` with what training takes on a GPU: SmolLM2-135M, and a model of 7B parameters.

``python -m tests.real.device_memory --model FOLDER`` trains three steps per setting, each in a process of its own, on
rows whose lengths are known. A folder that holds a ``config.json`` and a tokenizer, but no weights, gets random ones,
which take as much memory as any.

Three figures are compared with the estimate: what torch's allocator gave at most, what it took from the device for
that, and what was gone from the device at the end, which is what ``nvidia-smi`` shows of a process that is alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.real.memory import CHECKPOINTING, LORA, Setting, arguments, rows, run

COMPENSATED = '--model.init_args.teacher={"class_path": "CopiedTeacher", "init_args": {"memory": "compensated"}}'
OFFLOAD = '--model.init_args.teacher={"class_path": "CopiedTeacher", "init_args": {"memory": "offload"}}'
LONG = {"prompt": 512, "completion": 64, "shown": 1024}

SMALL = [
    ("bf16-mixed", Setting("sft", micro_batch=4)),
    ("bf16-mixed", Setting("sft", completion=960, options=(CHECKPOINTING,))),
    ("bf16-mixed", Setting("sdft", micro_batch=4, **LONG)),
    ("bf16-mixed", Setting("sdft", micro_batch=8, micro_batches=1, **LONG, options=(OFFLOAD,))),
    ("bf16-true", Setting("sdft", micro_batch=4, **LONG, options=(COMPENSATED,))),
    ("16-mixed", Setting("sdft", micro_batch=4)),
    ("bf16-mixed", Setting("sft", micro_batch=4, options=(LORA,))),
    ("bf16-mixed", Setting("sdft", micro_batch=4, **LONG, options=(LORA, CHECKPOINTING))),
]

LARGE = [
    ("bf16-true", Setting("sdft", micro_batch=4, **LONG, options=(COMPENSATED, CHECKPOINTING))),
    ("bf16-mixed", Setting("sdft", micro_batch=4, **LONG, options=(LORA, CHECKPOINTING))),
    ("bf16-true", Setting("sft", micro_batch=4, **LONG, options=(CHECKPOINTING,))),
    ("bf16-true", Setting("sdft", micro_batch=8, micro_batches=1, **LONG, options=(OFFLOAD, CHECKPOINTING))),
]


class DevicePeak(Callback):
    """Writes down what the device gave, and the seconds of each optimizer step.

    Args:
        output: JSON file.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.times: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.is_last:
            torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        free, total = torch.cuda.mem_get_info()
        figures = {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "used": total - free,
            "seconds": [after - before for before, after in zip(self.times, self.times[1:], strict=False)],
        }
        self.output.write_text(json.dumps(figures))


def with_weights(folder: Path, output: Path, precision: torch.dtype) -> Path:
    """A copy of a folder that has weights, random ones."""
    if list(folder.glob("*.safetensors")):
        return folder
    if not output.exists():
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=precision)
        model.save_pretrained(output)
        AutoTokenizer.from_pretrained(folder).save_pretrained(output)
    return output


def compare(precision: str, setting: Setting, model: Path, folder: Path) -> None:
    """Print a line of the table."""
    file, record, peak, log = (folder / name for name in ("rows.json", "memory.json", "peak.json", "log.txt"))
    file.write_text(json.dumps(rows(setting, model)))
    asked = [*arguments(setting, model, file), "--trainer.accelerator=gpu", "--trainer.devices=1"]
    asked.append(f"--trainer.precision={precision}")
    run(["memory", *asked, f"--json={record}"], log, {})
    estimate = json.loads(record.read_text())["by_budgets"]
    watch = ["--trainer.callbacks+=tests.real.device_memory.DevicePeak", f"--trainer.callbacks.output={peak}"]
    trust = [] if "--trust=tests" in asked else ["--trust=tests"]
    run(["fit", *asked, *trust, *watch], log, {})
    found = json.loads(peak.read_text())
    tensors = estimate["peak"] - estimate["held"]["process"]
    seconds = " ".join(f"{each:.2f}" for each in found["seconds"])
    print(
        f"| {precision} {setting} | {estimate['peak'] / 2**20:,.0f} | {found['allocated'] / 2**20:,.0f} | "
        f"{tensors / found['allocated']:.2f} | {found['reserved'] / 2**20:,.0f} | {found['used'] / 2**20:,.0f} | "
        f"{estimate['peak'] / found['used']:.2f} | {estimate['peak_phase']} | {seconds} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model, with or without weights")
    parser.add_argument("--output", type=Path, default=Path("runs/random"), help="where random weights are put")
    parser.add_argument("--large", action="store_true", help="the settings of a model of 7B parameters")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of settings, from 0")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this needs a CUDA device")
    settings = LARGE if options.large else SMALL
    precision = torch.bfloat16 if options.large else torch.float32
    model = with_weights(options.model, options.output, precision).absolute()
    print("| MiB | estimate | allocated | ratio | reserved | used | ratio | peak phase | seconds |")
    for number in options.only or range(len(settings)):
        with tempfile.TemporaryDirectory() as folder:
            compare(*settings[number], model, Path(folder))


if __name__ == "__main__":
    main()
