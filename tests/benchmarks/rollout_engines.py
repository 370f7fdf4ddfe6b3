"""Ways to sample rollouts with the very weights that train, on a GPU: random weights of Qwen2's shapes.

``python -m tests.benchmarks.rollout_engines --out FILE`` takes three minutes on an H200. It prints a Markdown table and
writes all figures to a JSON file after each case. The ways are the plain engine, the one that captures its steps
(:mod:`lightning_sdft.rollout.captured`), continuous batching of transformers, and ``torch.compile`` with
``reduce-overhead`` through the ``generate`` of transformers. It also compares the captured engine with the plain one.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from lightning_sdft.policy import Policy
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout import captured, generate, in_process
from tests.conftest import make_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
}
"""Of Qwen2.5; the smaller ones tie head and embedding."""

ROWS = (1, 8, 32)
PROMPT = 128
TOKENS = {"plain": 32, "captured": 128, "continuous": 128, "compiled": 128}
"""New tokens of each row: fewer for the plain engine, whose time is the same for each of them."""

COMPARED = 24
"""New tokens of each row by which the captured engine is compared with the plain one."""

Prompts = list[list[int]]


def make_policy(size: str, mixed: bool) -> Policy:
    """A policy with random weights on the GPU, in bfloat16, or in float32 for autocast."""
    shape = SHAPES[size]
    config = Qwen2Config(
        vocab_size=151_936,
        num_key_value_heads=4 if size == "7B" else 2,
        max_position_embeddings=32_768,
        tie_word_embeddings=size != "7B",
        **shape,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if mixed else torch.bfloat16)
    policy = Policy(model.eval(), Tokenizer(make_tokenizer()), probing=False)
    policy.unnamed_ids = torch.empty(0, dtype=torch.long)
    policy.tokenizer.stop_ids = set()  # so that all ways write the same number of tokens
    return policy


def make_prompts(rows: int) -> Prompts:
    """Different prompts, half of them somewhat shorter."""
    generator = torch.Generator().manual_seed(0)
    prompts: Prompts = torch.randint(100, 150_000, (rows, PROMPT), generator=generator).tolist()
    return [prompt[: PROMPT - 24 * (index % 2)] for index, prompt in enumerate(prompts)]


@contextmanager
def capturing(allowed: bool) -> Iterator[None]:
    """Let the engine in process capture its steps, or not."""
    with patch.object(in_process, "worth_capturing", captured.worth_capturing if allowed else lambda *_: False):
        yield


def plain(policy: Policy, prompts: Prompts, tokens: int) -> None:
    with capturing(False):
        generate(policy, prompts, tokens, Sampling(), range(len(prompts)))


def captured_(policy: Policy, prompts: Prompts, tokens: int) -> None:
    with capturing(True):
        generate(policy, prompts, tokens, Sampling(), range(len(prompts)))
    check_captured(policy)


def check_captured(policy: Policy) -> None:
    if refusals := set(captured.REFUSALS[policy.model].values()) - {""}:
        raise SystemError(f"not captured: {refusals}")


def continuous(policy: Policy, prompts: Prompts, tokens: int) -> None:
    from transformers import ContinuousBatchingConfig

    settings = GenerationConfig(do_sample=True, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0, top_k=0)
    batching = ContinuousBatchingConfig(return_logprobs=True, seed=0, max_memory_percent=0.3, use_cuda_graph=True)
    found = policy.model.generate_batch(prompts, settings, batching)
    lengths = {len(each.generated_tokens) for each in found.values()}
    if len(found) != len(prompts) or lengths != {tokens}:
        raise SystemError(f"{len(found)} of {len(prompts)} prompts, of {sorted(lengths)} tokens")


def compiled(policy: Policy, prompts: Prompts, tokens: int) -> None:
    from transformers import CompileConfig

    inputs = torch.tensor([prompt[:100] for prompt in prompts], device="cuda")
    policy.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=True,
        top_k=0,
        max_new_tokens=tokens,
        eos_token_id=-1,
        pad_token_id=0,
        cache_implementation="static",
        compile_config=CompileConfig(mode="reduce-overhead", fullgraph=False),
    )


WAYS: dict[str, Callable[[Policy, Prompts, int], None]] = {
    "plain": plain,
    "captured": captured_,
    "continuous": continuous,
    "compiled": compiled,
}


def timed(way: str, policy: Policy, rows: int) -> dict[str, float]:
    """Milliseconds per token of a row, prompts and preparations included, and MiB beyond what is there before."""
    prompts, tokens = make_prompts(rows), TOKENS[way]
    WAYS[way](policy, prompts, tokens if way == "compiled" else 16)  # so that everything is ready
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    WAYS[way](policy, prompts, tokens)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"milliseconds": 1e3 * seconds / tokens, "tokens_per_second": rows * tokens / seconds, "MiB": peak}


def compare(policy: Policy, rows: int, sampling: Sampling) -> dict[str, Any]:
    """How far captured rollouts are those of the plain engine."""
    found: list[list[Rollout]] = []
    for allowed in (True, False):
        with capturing(allowed):
            found.append(generate(policy, make_prompts(rows), COMPARED, sampling, range(rows)))
    check_captured(policy)
    largest, equal = 0.0, []
    for ours, theirs in zip(*found, strict=True):
        pairs = zip(ours.completion, theirs.completion, strict=True)
        equal.append(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
        scores = list(zip(ours.log_probabilities, theirs.log_probabilities, strict=True))[: equal[-1]]
        largest = max([largest, *(abs(one - other) for one, other in scores)])
    return {"equal_tokens": sum(equal), "of": COMPARED * rows, "largest_difference": largest}


def cases(sizes: Sequence[str]) -> Iterator[tuple[str, bool, str, int]]:
    """Model, whether under autocast, way and rows; of one model all in a row, and the slowest ways last."""
    for size in sizes:
        for mixed in (False, True):
            yield from ((size, mixed, way, rows) for way in ("captured", "plain") for rows in ROWS)
    if "1.5B" in sizes:
        for way, rows in (("captured", 256), ("plain", 256), ("continuous", 32)):
            yield "1.5B", False, way, rows
    if "0.5B" in sizes:
        yield "0.5B", False, "compiled", 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--sizes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=200, help="when to stop before the next case")
    options = parser.parse_args()
    start, held = time.perf_counter(), ("", False)
    policy: Policy | None = None
    packages = {name: version(name) for name in ("torch", "transformers")}
    record: dict[str, Any] = {"device": torch.cuda.get_device_name(), **packages, "cases": []}
    print(
        f"{record['device']}, {packages}\n\n| | way | rows | ms a token | tokens/s | MiB |\n|---|---|---|---|---|---|"
    )

    def note(name: str, **found: Any) -> None:
        record["cases"].append({"name": name, **found, "at": round(time.perf_counter() - start, 1)})
        options.out.write_text(json.dumps(record, indent=2))

    for size, mixed, way, rows in cases(options.sizes):
        if time.perf_counter() - start > options.seconds:
            print("out of time")
            break
        name = f"{size} {'bf16-mixed' if mixed else 'bf16'}"
        try:
            if held != (size, mixed):
                policy = None
                gc.collect()
                torch.cuda.empty_cache()
                policy = make_policy(size, mixed)
                held = size, mixed
                if size == "0.5B" and mixed:  # in float32 only rounding differs, and little of it
                    for sampling in (GREEDY, Sampling()):
                        same = compare(policy, 8, sampling)
                        print(f"| float32, temperature {sampling.temperature} | {same} |", flush=True)
                        note("float32", temperature=sampling.temperature, **same)
            assert policy is not None
            with torch.autocast("cuda", torch.bfloat16, enabled=mixed, cache_enabled=False):
                figures = timed(way, policy, rows)
                same = compare(policy, rows, GREEDY) if way == "captured" and rows < 32 else {}
            print(
                f"| {name} | {way} | {rows} | {figures['milliseconds']:.2f} | {figures['tokens_per_second']:,.0f} | "
                f"{figures['MiB']:,.0f} | {same or ''}",
                flush=True,
            )
            note(name, way=way, rows=rows, **figures, **same)
        except Exception as error:  # the other cases go on
            print(f"| {name} | {way} | {rows} | {type(error).__name__}: {str(error)[:200]} |", flush=True)
            traceback.print_exc(limit=-4)
            note(name, way=way, rows=rows, error=f"{type(error).__name__}: {error}"[:1000])


if __name__ == "__main__":
    main()
