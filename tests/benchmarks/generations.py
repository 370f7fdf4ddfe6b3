"""A step of SDFT with several generations of each prompt against TRL's: SmolLM2-135M, 4 prompts x 8 of 64 tokens.

Otherwise as :mod:`tests.benchmarks.step`, whose processes it runs. The peer is the faster of TRL's settings:
completions one by one, or the eight of a prompt at once.
"""

from __future__ import annotations

from statistics import median

from tests.benchmarks.measure import Row
from tests.benchmarks.step import COMPLETION, compared, in_turns

PROMPTS, GENERATIONS = 4, 8


def rows(repetitions: int, steps: int = 2) -> list[Row]:
    """All rows of the benchmark."""
    results = in_turns(repetitions, steps, (1, GENERATIONS), prompts=PROMPTS, generations=GENERATIONS)
    faster = min((1, GENERATIONS), key=lambda size: median(each["seconds"] for each in results[size]))
    size = f"{PROMPTS} prompts x {GENERATIONS} generations"
    setting = f"SmolLM2-135M, {steps} steps of {size} of {COMPLETION} tokens, float32"
    peer = f"peer TRL's faster setting, {PROMPTS * GENERATIONS // faster} x {faster}"
    bounds = (2.5, None, 0.5)
    return compared(f"step, {size}", peer, results["ours"], results[faster], steps * PROMPTS, bounds, setting)
