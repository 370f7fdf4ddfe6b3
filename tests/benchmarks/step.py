"""A step of SDFT against a step of TRL's SDFTTrainer: SmolLM2-135M, 8 prompts, completions of 64 tokens.

Both sides take the same questions, teacher template, budgets, loss (forward KL over the full vocabulary, EMA 0.01 in
float32, first 3 tokens skipped), learning rate and clipping, and sample at temperature 1. No completion may end before
its 64th token, so that both sides write and train on the same number of tokens. The time is that of the training loop,
without loading the model; the memory is that of the whole process.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.measure import Row, report, resident, run
from tests.benchmarks.peer import BUDGET, LEARNING_RATE, SKIP, TEMPLATE, mean_lengths, sdft_trainer
from tests.benchmarks.training import questions, train
from tests.real.smollm2 import model_folder

PROMPTS, COMPLETION = 8, 64


def ours(steps: int, micro_batch: int, folder: Path) -> dict[str, Any]:
    from lightning_sdft import SDFTModule

    budgets = {"max_prompt_tokens": BUDGET, "max_teacher_prompt_tokens": BUDGET, "max_completion_tokens": COMPLETION}
    template = TEMPLATE.format(demonstration="demonstration")
    options = {"skip_tokens": SKIP, "learning_rate": LEARNING_RATE, "warmup_steps": 0}
    module = SDFTModule(str(model_folder()), teacher_template=template, **options, **budgets)
    module.tokenizer.stop_ids = set()
    result = train(module, questions(steps * PROMPTS), folder, PROMPTS, micro_batch)
    return result | {"length": result["means"]["rollout/length"]}


def trl(steps: int, micro_batch: int, folder: Path) -> dict[str, Any]:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = -time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds += time.process_time()

    clock, rows = Clock(), questions(steps * PROMPTS)
    trainer = sdft_trainer(str(model_folder()), rows, steps, micro_batch, COMPLETION, folder, use_cpu=True, bf16=False)
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "memory": resident("VmHWM"), "length": mean(mean_lengths(trainer))}


SIDES = {"ours": ours, "trl": trl}


def measure(side: str, steps: int, micro_batch: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        if side != "floor":
            return SIDES[side](steps, micro_batch, Path(folder))
        with FlopCounterMode(display=False) as counter:
            ours(steps, micro_batch, Path(folder))
        return {"operations": counter.get_total_flops(), "rate": matrix_rate()}


def matrix_rate() -> float:
    """Floating-point operations per CPU second of a large matrix product, at its best."""
    left, right = torch.randn(2, 2048, 2048)
    seconds = []
    for _ in range(10):
        start = time.process_time()
        left @ right
        seconds.append(time.process_time() - start)
    return 2 * 2048**3 / min(seconds)


def rows(repetitions: int, steps: int = 2) -> list[Row]:
    """All rows of the benchmark. TRL takes its prompts at once or one by one; the faster setting is the peer."""
    results = {"ours": [], 1: [], PROMPTS: []}
    for _ in range(repetitions):
        for side, micro_batch in (("ours", 1), ("trl", 1), ("trl", PROMPTS)):
            result = run("step", side=side, steps=steps, micro_batch=micro_batch)
            results["ours" if side == "ours" else micro_batch].append(result)
    if {each["length"] for result in results.values() for each in result} != {COMPLETION}:
        raise SystemExit(f"the sides wrote different numbers of tokens: {results}")
    floor = run("step", side="floor", steps=steps, micro_batch=1)
    seconds = {side: [each["seconds"] for each in result] for side, result in results.items()}
    faster, slower = sorted((1, PROMPTS), key=lambda size: median(seconds[size]))
    setting = f"SmolLM2-135M, {steps} steps of {PROMPTS} prompts, completions of {COMPLETION} tokens, float32"
    rates = {side: [steps * PROMPTS / each for each in result] for side, result in seconds.items()}
    memory = {side: [each["memory"] for each in result] for side, result in results.items()}
    rows = []
    for size, which in ((faster, "faster"), (slower, "other")):
        peer = f"peer TRL's {which} setting, {PROMPTS // size} x {size} prompts"
        rows.append(Row(f"step: rate, {peer}", "prompts/s", rates["ours"], rates[size], 1.7, setting, at_least=True))
        rows.append(Row(f"step: peak memory, {peer}", "MiB", memory["ours"], memory[size], 0.5, setting))
    bound = [floor["operations"] / floor["rate"]]
    rows.append(Row("step: CPU time, peer its matrix products alone", "s", seconds["ours"], bound, 1.5, setting))
    return rows


if __name__ == "__main__":
    report(measure)
