"""A step of SDFT against a step of TRL's SDFTTrainer on a GPU: random weights, completions of one length.

``python -m tests.benchmarks.device --model FOLDER`` measures both sides, each in a process of its own, and prints a
Markdown table. Both take the questions, template, budgets, loss and precision (``bf16-mixed``) of
:mod:`tests.benchmarks.peer`. The time of a step is its wall-clock time, without the first; the memory is what torch's
allocator gave at most. The folder holds a model, with its weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from tests.benchmarks.measure import run
from tests.benchmarks.peer import BUDGET, LEARNING_RATE, SKIP, TEMPLATE, mean_lengths, sdft_trainer
from tests.benchmarks.training import questions


class StepTimes:
    """When optimizer steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def mark(self) -> None:
        """One did."""
        torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def report(self) -> dict[str, Any]:
        """Seconds of each step but the first, and MiB."""
        seconds = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return {"seconds": seconds, "memory": torch.cuda.max_memory_allocated() / 2**20}


def ours(model: str, steps: int, prompts: int, micro_batch: int, completion: int, folder: Path) -> dict[str, Any]:
    from lightning_sdft import EMATeacher, JsonDataModule, SDFTModule

    times, phases = StepTimes(), dict[str, list[float]]()

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch.is_last:
                times.mark()
                for name, value in trainer.callback_metrics.items():
                    if name.startswith(("time/", "rollout/length")):
                        phases.setdefault(name, []).append(round(float(value), 3))

    budgets = {"max_prompt_tokens": BUDGET, "max_teacher_prompt_tokens": BUDGET, "max_completion_tokens": completion}
    template = TEMPLATE.format(demonstration="demonstration")
    options: dict[str, Any] = {"skip_tokens": SKIP, "learning_rate": LEARNING_RATE, "warmup_steps": 0}
    module = SDFTModule(model, teacher_template=template, **options, **budgets)
    module.tokenizer.stop_ids = set()
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, questions(steps * prompts))))
    columns = {"prompt_column": "prompt", "demonstration_column": "demonstration"}
    sizes = {"batch_size": prompts, "micro_batch_size": micro_batch}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        accumulate_grad_batches=prompts // micro_batch,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        callbacks=[EMATeacher(0.01), Clock()],
        **quiet,  # type: ignore[arg-type]  # all are switches
    )
    seed_everything(0)
    trainer.fit(module, datamodule=JsonDataModule(str(folder / "rows.jsonl"), **columns, **sizes))
    return times.report() | phases


def trl(model: str, steps: int, prompts: int, micro_batch: int, completion: int, folder: Path) -> dict[str, Any]:
    from transformers import TrainerCallback

    times = StepTimes()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.mark()

    trainer = sdft_trainer(model, questions(steps * prompts), steps, micro_batch, completion, folder, bf16=True)
    trainer.add_callback(Clock())
    trainer.train()
    return times.report() | {"rollout/length": mean_lengths(trainer)}


SIDES = {"ours": ours, "trl": trl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a model with weights")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=32, help="per optimizer step")
    parser.add_argument("--completion", type=int, default=128, help="tokens of each rollout")
    parser.add_argument("--micro_batches", type=int, nargs="+", default=[8, 32], help="prompts per micro-batch")
    options = parser.parse_args()
    setting = {"model": options.model, "steps": options.steps, "prompts": options.prompts}
    print("| | seconds a step | MiB |\n|---|---|---|")
    for micro_batch in options.micro_batches:
        for side in SIDES:
            found = run("device", side=side, micro_batch=micro_batch, completion=options.completion, **setting)
            print(f"| {side}, {micro_batch} | {median(found['seconds']):.2f} | {found['memory']:,.0f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        arguments = json.loads(sys.argv[1])
        with TemporaryDirectory() as created:
            print(json.dumps(SIDES[arguments.pop("side")](folder=Path(created), **arguments)))
    else:
        main()
