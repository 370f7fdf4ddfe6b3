"""A training run under measurement: CPU seconds from the first batch to the last update, and what was logged."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_sdft import EMATeacher, JsonDataModule, SDFTModule
from lightning_sdft.modules import CausalLMModule
from tests.benchmarks.measure import ROOT, resident

DATA = Path(os.environ.get("LIGHTNING_SDFT_DATA", ROOT.parent / "shared" / "data"))
QUESTIONS = DATA / "sciknoweval_chemistry_l3" / "L3_molar_weight_calculation.jsonl"


def questions(count: int) -> list[dict[str, str]]:
    """Questions with their answers as demonstrations, in the order of the file, without its few very long ones."""
    found = []
    for row in map(json.loads, QUESTIONS.read_text().splitlines()):
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        choices = "\n".join(f"{label}) {text}" for label, text in zip(labels, texts, strict=True))
        weight = texts[labels.index(row["answerKey"])]
        prompt = f"{row['prompt']['default']}\n\n{row['question']}\n{choices}"
        demonstration = f"The molar weight is {weight} g/mol, so the answer is {row['answerKey']}."
        found.append({"prompt": prompt, "demonstration": demonstration})
    return [each for each in found if len(each["prompt"]) < 800][:count]


class Recorder(Callback):
    """Keeps what is logged, and the CPU time of the training loop."""

    def __init__(self) -> None:
        self.logged: defaultdict[str, list[float]] = defaultdict(list)
        self.rollouts: list[dict[str, str]] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seconds = -time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch.is_last:
            for item in batch.group.items:
                if item.rollout is not None:
                    response = pl_module.tokenizer.decode(item.rollout.completion)
                    self.rollouts.append({"prompt": item.example.prompt[-1]["content"], "demonstration": response})
            for name, value in trainer.logged_metrics.items():
                self.logged[name].append(float(value))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seconds += time.process_time()


def train(
    module: CausalLMModule, rows: list[dict[str, str]], folder: Path, prompts: int, micro_batch: int
) -> dict[str, Any]:
    """Train one epoch and report time, memory and phases; all sides clip and use the CPU."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"prompt_column": "prompt", "demonstration_column": "demonstration"}
    data = JsonDataModule(str(folder / "rows.jsonl"), **columns, batch_size=prompts, micro_batch_size=micro_batch)
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=prompts // micro_batch,
        gradient_clip_val=1.0,
        callbacks=[recorder] + ([EMATeacher(0.01)] if isinstance(module, SDFTModule) else []),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    seed_everything(0)
    trainer.fit(module, datamodule=data)
    means = {name: round(sum(values) / len(values), 3) for name, values in recorder.logged.items()}
    figures = {"seconds": recorder.seconds, "memory": resident("VmHWM"), "means": means}
    return figures | {"rollouts": recorder.rollouts}
