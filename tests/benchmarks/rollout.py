"""Rollouts against `model.generate`: the same model, prompts, lengths and way of sampling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate
from tests.benchmarks.measure import Row, in_turn, report
from tests.real.smollm2 import model_folder
from tests.rollout.reference import generate_with_transformers

Tokens = list[int]

LONG_TAIL = [
    "Answer with one word: what is the capital of France?",
    "What is 2 + 2? Answer with the number only.",
    "What is the capital of Japan?",
    "Which month comes after June?",
    "What is the capital of Italy?",
    "How many days are in a week?",
    "Name one animal that can fly.",
    "Say only the word 'yes'.",
    "Name the first president of the United States.",
    "Give me one word that rhymes with 'light'.",
    "Name a fruit that is yellow.",
    "What is the largest ocean on Earth?",
    "What is the name of our galaxy?",
    "What is the currency of Germany?",
    "What is ice made of?",
    "Explain why leaves change colour in autumn.",
]
"""Questions whose greedy answers by SmolLM2-135M-Instruct have 8 to 96 tokens, most of them few."""


def long_tail() -> tuple[Policy, list[Tokens], int, Sampling, int]:
    policy = Policy.load(str(model_folder()))
    prompts = [policy.tokenizer.encode([{"role": "user", "content": text}]) for text in LONG_TAIL]
    return policy, prompts, 96, GREEDY, 1


def samples() -> tuple[Policy, list[Tokens], int, Sampling, int]:
    policy = Policy.load(str(model_folder()))
    policy.tokenizer.stop_ids = set()  # so that all sides write the same number of tokens
    generator = torch.Generator().manual_seed(0)
    prompts: list[Tokens] = torch.randint(100, 40_000, (4, 256), generator=generator).tolist()
    return policy, [prompt for prompt in prompts for _ in range(8)], 64, Sampling(), 1


WORKLOADS: dict[str, Callable[[], tuple[Policy, list[Tokens], int, Sampling, int]]] = {
    "long_tail": long_tail,
    "samples": samples,
}

ENGINES: dict[str, Callable[..., Any]] = {"ours": generate, "generate": generate_with_transformers}


def measure(side: str, workload: str) -> dict[str, Any]:
    policy, prompts, max_tokens, sampling, times = WORKLOADS[workload]()
    engine = ENGINES[side]
    engine(policy, prompts[:2], 2, sampling)
    torch.manual_seed(0)
    start = time.process_time()
    tokens = sum(
        len(rollout.completion) for _ in range(times) for rollout in engine(policy, prompts, max_tokens, sampling)
    )
    seconds = time.process_time() - start
    return {"tokens": tokens, "seconds": seconds, "rate": tokens / seconds}


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark; the sides must have written the same number of tokens."""
    result = []
    for workload, name, must in (
        ("long_tail", "SmolLM2-135M, 16 prompts, greedy answers of 8 to 96 tokens", 1.5),
        ("samples", "SmolLM2-135M, 4 prompts of 256 tokens x 8 samples of 64", 2.0),
    ):
        results = in_turn("rollout", list(ENGINES), repetitions, workload=workload)
        if len({each["tokens"] for side in results.values() for each in side}) > 1:
            raise SystemExit(f"the sides wrote different numbers of tokens: {results}")
        sides = [[each["rate"] for each in results[side]] for side in ENGINES]
        result.append(Row(f"rollout, {name}, peer model.generate", "tokens/s", *sides, must, "float32", at_least=True))
    return result


if __name__ == "__main__":
    report(measure)
