from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.records import Rollout
from tests.leaks.__main__ import counted, leaks, table
from tests.leaks.watch import Sample, growth, read_samples

LEVEL = Sample(0, 500.0, 480.0, 100_000, 6, 8, 5.0)


def run(steps: int, change: Callable[[int], dict[str, Any]]) -> list[Sample]:
    """Samples every 10 steps of a run that is level but for what changes."""
    return [Sample(**{**asdict(LEVEL), "step": step, **change(step)}) for step in range(10, steps + 1, 10)]


def test_growth_is_that_of_100_steps() -> None:
    assert growth(run(200, lambda step: {"live": 480 + 0.03 * step}), "live") == pytest.approx(3)
    assert growth(run(200, lambda step: {}), "live") == 0


def test_noise_steps_and_peaks_of_the_allocator_are_no_leak() -> None:
    noise = random.Random(0)
    samples = run(2000, lambda step: {"live": 480 + noise.gauss(0, 2) + 30 * (step % 400 == 0) + 5 * (step > 600)})
    assert abs(growth(counted(samples), "live")) < 0.5
    assert leaks(samples) == []


@pytest.mark.parametrize(
    ("quantity", "each_step"), [("live", 0.02), ("threads", 0.01), ("files", 0.01), ("objects", 1), ("tokens", 0.01)]
)
def test_steady_growth_is_found_in_noise(quantity: str, each_step: float) -> None:
    noise = random.Random(0)
    level = getattr(LEVEL, quantity)
    samples = run(2000, lambda step: {"live": 480 + noise.gauss(0, 0.5), quantity: level + each_step * step})
    assert leaks(samples) == [quantity]
    assert f"{quantity:10} | {level + each_step * 510:13.1f} |" in table(samples)


def test_warm_up_does_not_count() -> None:
    samples = run(400, lambda step: {"live": 480 + min(step, 100)})
    assert counted(samples)[0].step == 110
    assert leaks(samples) == []


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps(asdict(LEVEL)) + "\n")
    assert read_samples(tmp_path / "samples.jsonl") == [LEVEL]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_sample_sees_what_is_held() -> None:
    rollouts = [Rollout([1], [2] * length, [0.0] * length, True) for length in (3, 4)]
    before = Sample.take(1, rollouts)
    held = bytearray(b"x" * 2**24)
    with Path(__file__).open():
        after = Sample.take(2, rollouts)
    assert len(held) == 2**24
    assert after.live - before.live > 15
    assert after.files == before.files + 1
    assert after.threads == before.threads
    assert after.tokens == 3.5
