"""Loss, rollouts and a step beside TRL's and transformers' on a GPU: ``make bench-gpu``.

Each side is measured in a process of its own, in turn, and has to finish. Times are those of the clock, after a first
round that loads what is loaded lazily; memory is what torch's allocator gave at most. Writes ``.bench/gpu.json``.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.benchmarks import device, loss, rollout
from tests.benchmarks.measure import Row, in_turn, report, table, write
from tests.real.smollm2 import model_folder

TOKENS, WIDTH = 4096, 1536
STEPS, PROMPTS, MICRO_BATCH, COMPLETION = 4, 32, 8, 128
REPETITIONS = 3


def measure(what: str, side: str) -> dict[str, Any]:
    return {"loss": measure_loss, "rollout": measure_rollout, "step": measure_step}[what](side)


def measure_loss(side: str) -> dict[str, Any]:
    tensors = [each.detach().cuda().requires_grad_(each.requires_grad) for each in loss.problem(TOKENS, WIDTH)]
    loss.SIDES[side](*tensors).backward()
    for each in tensors:
        each.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.synchronize()
    start = time.perf_counter()
    value = loss.SIDES[side](*tensors)
    value.backward()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": (torch.cuda.max_memory_allocated() - before) / 2**20, "loss": value.item()}


def measure_rollout(side: str) -> dict[str, Any]:
    torch.set_default_dtype(torch.bfloat16)
    policy, prompts, max_tokens, sampling, _ = rollout.samples()
    policy.cuda().eval()
    for _ in range(2):  # the first time kernels are loaded
        torch.cuda.synchronize()
        start = time.perf_counter()
        written = rollout.ENGINES[side](policy, prompts, max_tokens, sampling)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    tokens = sum(len(each.completion) for each in written)
    return {"tokens": tokens, "rate": tokens / seconds}


def measure_step(side: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return device.SIDES[side](str(model_folder()), STEPS, PROMPTS, MICRO_BATCH, COMPLETION, Path(folder))


def rows() -> list[Row]:
    """All rows: without bounds, for none has been set on a GPU."""
    found = []
    losses = in_turn("gpu", list(loss.SIDES), REPETITIONS, what="loss")
    values = [each["loss"] for side in losses.values() for each in side]
    if max(values) - min(values) > 1e-4 * max(values):
        raise SystemExit(f"the losses differ: {values}")
    for peer in ("dense", "tiled"):
        for quantity, said, unit in (("seconds", "time", "s"), ("memory", "peak memory", "MiB")):
            sides = [[each[quantity] for each in losses[side]] for side in ("ours", peer)]
            name = f"loss on a GPU, N={TOKENS:,}, D={WIDTH:,}: {said}, peer TRL {peer}"
            found.append(Row(name, unit, *sides, None, "forward KL, forward and backward, float32"))
    written = in_turn("gpu", list(rollout.ENGINES), REPETITIONS, what="rollout")
    if len({each["tokens"] for side in written.values() for each in side}) > 1:
        raise SystemExit(f"the sides wrote different numbers of tokens: {written}")
    rates = [[each["rate"] for each in written[side]] for side in ("ours", "generate")]
    name = "rollout on a GPU, SmolLM2-135M, 4 prompts of 256 tokens x 8 samples of 64, peer model.generate"
    found.append(Row(name, "tokens/s", *rates, None, "bfloat16", at_least=True))
    steps = in_turn("gpu", list(device.SIDES), REPETITIONS, what="step")
    setting = f"SmolLM2-135M, {PROMPTS} prompts in micro-batches of {MICRO_BATCH}, {COMPLETION} tokens, bf16-mixed"
    seconds = [[time for each in steps[side] for time in each["seconds"]] for side in ("ours", "trl")]
    found.append(Row("step on a GPU: time, peer TRL", "s", *seconds, None, setting))
    memory = [[each["memory"] for each in steps[side]] for side in ("ours", "trl")]
    found.append(Row("step on a GPU: peak memory, peer TRL", "MiB", *memory, None, setting))
    return found


if __name__ == "__main__":
    import sys

    if len(sys.argv) > 1:
        report(measure)
    elif not torch.cuda.is_available():
        sys.exit("there is no GPU here; `make bench` compares on a CPU")
    else:
        model_folder()  # converts it, before anything is measured
        results = rows()
        write("gpu", results)
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n{table(results)}")
