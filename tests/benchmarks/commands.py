"""How soon commands say something: CPU seconds of a process and its children until the first line is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.measure import ROOT, Row

LIMIT = 1.5
"""CPU seconds."""

COMMANDS = {
    "--help": ["--help"],
    "fit --help": ["fit", "--help"],
    "fit": ["fit", "--config", "laptop_sdft", "--trainer.max_steps", "1"],
    "test": ["test", "--config", "laptop_sdft"],
    "preflight": ["preflight", "--config", "laptop_sdft"],
    "memory": ["memory", "--config", "laptop_sdft"],
    "export": ["export", "--model", "zoo/laptop", "--output", "out"],
    "configs": ["configs"],
}


def first_line(arguments: Sequence[str]) -> float:
    """CPU seconds of a command until it writes its first line."""
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_sdft", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = used(process.pid)
        process.kill()
        process.communicate()
    if not line.strip():
        raise SystemExit(f"{' '.join(arguments)} wrote nothing")
    return seconds


def used(process: int) -> float:
    """CPU seconds that a process and its children that have ended have used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rows(repetitions: int) -> list[Row]:
    """All rows of the benchmark; the peer is the limit."""
    found = []
    for name, arguments in COMMANDS.items():
        seconds = [first_line(arguments) for _ in range(repetitions)]
        found.append(Row(f"{name}: CPU time to the first line, peer {LIMIT} s", "s", seconds, [LIMIT], 1.0, "laptop"))
    return found
