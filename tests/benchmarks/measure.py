"""How the benchmarks measure: one process per measurement, one thread, the sides in turn, medians.

A side is measured by ``python -m tests.benchmarks.<bench> '<JSON of its setting>'``, which prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / ".bench"
PACKAGES = ("lightning-sdft", "trl", "torch", "transformers", "lightning")


@dataclass
class Meter:
    """What a block of code took: CPU seconds, and peak resident memory in MiB beyond what was there before."""

    seconds: float = 0.0
    memory: float = 0.0


@contextmanager
def meter() -> Iterator[Meter]:
    """Measure a block. The kernel keeps the peak itself, and forgets earlier ones when asked to (Linux)."""
    result = Meter()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    yield result
    result.seconds = time.process_time() - start
    result.memory = resident("VmHWM") - before


def resident(kind: str) -> float:
    """Resident memory of this process in MiB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def report(measure: Callable[..., Mapping[str, Any]]) -> None:
    """The entry point of a measuring process."""
    torch.set_num_threads(1)
    print(json.dumps(measure(**json.loads(sys.argv[1]))))


def run(bench: str, **setting: Any) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    process = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{bench}", json.dumps(setting)],
        env=os.environ | offline | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"{bench} {setting} failed:\n{process.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    shown = {name: value for name, value in result.items() if name != "rollouts"}
    print(f"  {bench} {json.dumps(setting)}: {json.dumps(shown)}", file=sys.stderr, flush=True)
    return result


def in_turn(bench: str, sides: Sequence[str], repetitions: int, **setting: Any) -> dict[str, list[dict[str, Any]]]:
    """Measure sides in turn, A B A B, so that a change of the machine's speed meets all of them."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(repetitions):
        for side in sides:
            results[side].append(run(bench, side=side, **setting))
    return results


@dataclass
class Row:
    """A figure of ours against a peer's.

    Args:
        name: What is compared.
        unit: Of ours and peer.
        ours: Our measurements.
        peer: The peer's.
        must: Bound of the ratio ours / peer; ``None`` for a figure that is only reported.
        at_least: Whether the bound is a lower one (of a rate), and not an upper one (of time or memory).
        setting: What was run.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float]
    must: float | None
    setting: str
    at_least: bool = False
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        self.ratio = median(self.ours) / median(self.peer)

    @property
    def holds(self) -> bool:
        """Whether the ratio is within its bound."""
        if self.must is None:
            return True
        return self.ratio >= self.must if self.at_least else self.ratio <= self.must

    def record(self) -> dict[str, Any]:
        """The row for the JSON file."""
        return {
            "ours": median(self.ours),
            "peer": median(self.peer),
            "ours_range": [min(self.ours), max(self.ours)],
            "peer_range": [min(self.peer), max(self.peer)],
            "unit": self.unit,
            "ratio": self.ratio,
            "must": None if self.must is None else f"{'>=' if self.at_least else '<='} {self.must}",
            "holds": self.holds,
            "setting": self.setting,
            "versions": versions(),
        }

    def line(self) -> str:
        """The row for the Markdown table."""
        must = "" if self.must is None else f"{'≥' if self.at_least else '≤'} {self.must:g}"
        holds = "" if self.must is None else "yes" if self.holds else "**no**"
        figures = " | ".join(f"{spread(side)} {self.unit}" for side in (self.ours, self.peer))
        return f"| {self.name} | {figures} | **{self.ratio:.2f}** | {must} | {holds} |"


def spread(values: Sequence[float]) -> str:
    """Median, with the range if there is one."""
    digits = 0 if median(values) >= 100 else 2
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def versions() -> dict[str, str]:
    """Of Python and of the packages that take part."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def machine() -> str:
    """The class of machine, in words."""
    cpu = Path("/proc/cpuinfo").read_text()
    name = next(line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
    vector = next((kind for kind in ("avx512f", "avx2") if f" {kind} " in cpu), "no avx2")
    return f"one thread of {name} ({vector}), torch {torch.__version__}"


def write(bench: str, rows: Sequence[Row]) -> None:
    """Write the rows of a benchmark to its JSON file."""
    OUTPUT.mkdir(exist_ok=True)
    records = {row.name: row.record() for row in rows}
    (OUTPUT / f"{bench}.json").write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of rows."""
    head = ["| | ours | peer | ours / peer | must be | holds |", "|---|---|---|---|---|---|"]
    return "\n".join(head + [row.line() for row in rows])
