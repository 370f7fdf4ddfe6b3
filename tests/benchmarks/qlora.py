"""Adapters over a model of 4 bits a weight against adapters over one in float32: SmolLM2-135M, a step of SDFT.

Both sides train an adapter of rank 16 on one prompt, with a completion of 64 tokens. The model under it is stored as
NF4 with embeddings and products in bfloat16, or in float32. What it takes is counted; the peak is that of the process
from the first batch on, for loading reads a file in float32 on both sides.
"""

from __future__ import annotations

import ctypes
import gc
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_sdft import EMATeacher, JsonDataModule, LoRA, SDFTModule
from lightning_sdft.policy.lora import adapter_weights
from tests.benchmarks.measure import Row, in_turn, report, resident
from tests.benchmarks.peer import BUDGET
from tests.benchmarks.training import questions
from tests.real.smollm2 import model_folder


class Forgetting(Callback):
    """Gives back what loading has left, and lets the kernel forget its peak (Linux)."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


STEPS, COMPLETION = 2, 64
PRECISIONS: dict[str, Any] = {"nf4": "bf16-true", "full": "32-true"}


def measure(side: Any) -> dict[str, Any]:
    budgets = {"max_prompt_tokens": BUDGET, "max_teacher_prompt_tokens": BUDGET, "max_completion_tokens": COMPLETION}
    module = SDFTModule(str(model_folder()), lora=LoRA(base=side), learning_rate=1e-4, **budgets)
    module.tokenizer.stop_ids = set()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, questions(STEPS))))
        columns = {"prompt_column": "prompt", "demonstration_column": "demonstration"}
        data = JsonDataModule(str(file), **columns, batch_size=1)
        callbacks = [EMATeacher(0.01), Forgetting()]
        trainer = Trainer(accelerator="cpu", precision=PRECISIONS[side], max_steps=STEPS, callbacks=callbacks, **quiet)
        trainer.fit(module, datamodule=data)
    adapters = {id(each) for each in adapter_weights(module.policy.model).values()}
    stored = [*module.policy.parameters(), *module.policy.buffers()]
    weights = sum(each.nbytes for each in stored if id(each) not in adapters) / 2**20
    return {"memory": resident("VmHWM"), "weights": weights, "loss": float(trainer.callback_metrics["train/loss"])}


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark."""
    results = in_turn("qlora", list(PRECISIONS), repetitions)
    setting = f"SmolLM2-135M, {STEPS} steps of a prompt, completions of {COMPLETION} tokens"
    quantities = (("weights", "weights under the adapters", 0.3), ("memory", "peak memory", None))
    found = []
    for quantity, said, must in quantities:
        sides = [[each[quantity] for each in results[side]] for side in PRECISIONS]
        found.append(Row(f"QLoRA, NF4: {said}, peer LoRA in float32", "MiB", *sides, must, setting))
    return found


if __name__ == "__main__":
    report(measure)
