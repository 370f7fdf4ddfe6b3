"""A step of SDFT against a step of TRL's SDFTTrainer: SmolLM2-135M, 8 prompts, completions of 64 tokens.

Both sides take the same questions, teacher template, budgets, loss (forward KL over the full vocabulary, EMA 0.01 in
float32, first 3 tokens skipped), learning rate and clipping, and sample at temperature 1. No completion may end before
its 64th token, so that both sides write and train on the same number of tokens. The time is that of the training loop,
without loading the model; the memory is that of the whole process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.measure import Row, report, resident, run
from tests.benchmarks.peer import BUDGET, LEARNING_RATE, SKIP, TEMPLATE, mean_lengths, sdft_trainer
from tests.benchmarks.training import questions, train
from tests.real.smollm2 import model_folder

PROMPTS, COMPLETION = 8, 64


def ours(steps: int, micro_batch: int, folder: Path, prompts: int = PROMPTS, generations: int = 1) -> dict[str, Any]:
    from lightning_sdft import SDFTModule

    budgets = {"max_prompt_tokens": BUDGET, "max_teacher_prompt_tokens": BUDGET, "max_completion_tokens": COMPLETION}
    template = TEMPLATE.format(demonstration="demonstration")
    options: dict[str, Any] = {"skip_tokens": SKIP, "learning_rate": LEARNING_RATE, "warmup_steps": 0}
    if generations > 1:
        options["generations"] = generations
    module = SDFTModule(str(model_folder()), teacher_template=template, **options, **budgets)
    module.tokenizer.stop_ids = set()
    result = train(module, questions(steps * prompts), folder, prompts, micro_batch)
    return result | {"length": result["means"]["rollout/length"], "needed": needed(module)}


def needed(module: Any) -> float:
    """MiB that any side needs in float32: a parameter, its gradient, two moments and the teacher's parameter."""
    return 5 * sum(each.nbytes for each in module.policy.parameters()) / 2**20


def trl(steps: int, micro_batch: int, folder: Path, prompts: int = PROMPTS, generations: int = 1) -> dict[str, Any]:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = -time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds += time.process_time()

    clock, rows = Clock(), questions(steps * prompts)
    place = {"use_cpu": True, "bf16": False}
    trainer = sdft_trainer(
        str(model_folder()), rows, steps, micro_batch, COMPLETION, folder, generations=generations, **place
    )
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "memory": resident("VmHWM"), "length": mean(mean_lengths(trainer))}


SIDES = {"ours": ours, "trl": trl}


def measure(side: str, steps: int, micro_batch: int, **sizes: int) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        if side != "floor":
            return SIDES[side](steps, micro_batch, Path(folder), **sizes)
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
    """All rows of the benchmark. TRL takes its prompts one by one, and at once."""
    results = in_turns(repetitions, steps, (1, PROMPTS))
    floor = run("step", side="floor", steps=steps, micro_batch=1)
    setting = f"SmolLM2-135M, {steps} steps of {PROMPTS} prompts, completions of {COMPLETION} tokens, float32"
    bounds = {1: (1.5, 0.95), PROMPTS: (None, 0.47)}
    rows = []
    for size, (rate, peak) in bounds.items():
        peer = f"peer TRL's {PROMPTS // size} x {size} prompts"
        rows += compared("step", peer, results["ours"], results[size], steps * PROMPTS, (rate, peak, None), setting)
    bound = [floor["operations"] / floor["rate"]]
    seconds = [each["seconds"] for each in results["ours"]]
    rows.append(Row("step: CPU time, peer its matrix products alone", "s", seconds, bound, 1.5, setting))
    return rows


def in_turns(repetitions: int, steps: int, sizes: Sequence[int], **setting: int) -> dict[Any, list[dict[str, Any]]]:
    """Measurements of our side, and of TRL's with some sizes of a micro-batch, which write as many tokens."""
    results: dict[Any, list[dict[str, Any]]] = {"ours": [], **{size: [] for size in sizes}}
    for _ in range(repetitions):
        for side, micro_batch in (("ours", 1), *(("trl", size) for size in sizes)):
            result = run("step", side=side, steps=steps, micro_batch=micro_batch, **setting)
            results["ours" if side == "ours" else micro_batch].append(result)
    if {each["length"] for result in results.values() for each in result} != {COMPLETION}:
        raise SystemExit(f"the sides wrote different numbers of tokens: {results}")
    return results


def compared(
    name: str,
    peer: str,
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    prompts: int,
    bounds: tuple[float | None, float | None, float | None],
    setting: str,
) -> list[Row]:
    """Rows of the rate, of the whole peak, and of the peak beyond what both need."""
    sides, common = (ours, theirs), ours[0]["needed"]
    rates = [[prompts / each["seconds"] for each in side] for side in sides]
    peaks = [[each["memory"] for each in side] for side in sides]
    beyond = [[peak - common for peak in side] for side in peaks]
    rate, peak, rest = bounds
    return [
        Row(f"{name}: rate, {peer}", "prompts/s", *rates, rate, setting, at_least=True),
        Row(f"{name}: peak memory, {peer}", "MiB", *peaks, peak, setting),
        Row(f"{name}: peak memory beyond the {common:,.0f} MiB that both need, {peer}", "MiB", *beyond, rest, setting),
    ]


if __name__ == "__main__":
    report(measure)
