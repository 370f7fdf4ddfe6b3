"""Kill runs of the laptop model at random moments, let them go on, and compare them with one that was never killed.

``python -m tests.faults --runs 40`` kills as many runs one to three times each with SIGKILL: at some time, in rollouts,
in forward and backward passes, in the middle of checkpoint writes; half of them in two processes. In the end student,
teacher, optimizer, schedule, counters, generators and every logged curve must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.runs import differences, finish, kill_at_random, prepare, result


def uninterrupted(folder: Path, **options: Any) -> tuple[dict[str, Any], float]:
    """The result of a run that is left alone, and how many seconds it took."""
    start = time.monotonic()
    assert finish(prepare(folder, **options)) == 0, (folder / "log.txt").read_text()
    return result(folder), time.monotonic() - start


def killed(folder: Path, random: Random, seconds: float, **options: Any) -> tuple[list[str], Any]:
    """Where a run was killed, one to three times, and its result."""
    prepare(folder, **options)
    kills: list[str] = []
    for _ in range(random.choice([1, 1, 2, 3])):
        where = kill_at_random(folder, random, seconds)
        if where is None:
            break
        kills.append(where)
    code = finish(folder)
    assert code == 0, f"exit code {code}\n{(folder / 'log.txt').read_text()[-3000:]}"
    return kills, result(folder)


def study(runs: int, seed: int, processes: list[int], folder: Path, **options: Any) -> int:
    """Kill as many runs, print a row for each, and return how many differ."""
    whole = {
        count: uninterrupted(folder / f"whole{count}", processes=count, **options) for count in sorted(set(processes))
    }
    print("| run | processes | killed in (step) | starts | equal |\n|---|---|---|---|---|", flush=True)
    places: Counter[str] = Counter()
    bad = 0
    for number in range(runs):
        count = processes[number % len(processes)]
        expected, seconds = whole[count]
        place = folder / f"run{number}"
        kills, found = killed(place, Random(f"{seed} {number}"), seconds, processes=count, **options)
        wrong = differences(expected, found)
        places.update(kill.split()[0] for kill in kills)
        bad += bool(wrong)
        verdict = "yes" if not wrong else f"NO: {len(wrong)} differ, such as {', '.join(wrong[:3])}"
        print(f"| {number} | {count} | {', '.join(kills)} | {len(kills) + 1} | {verdict} |", flush=True)
        if not wrong:
            shutil.rmtree(place)
    counts = ", ".join(f"{place} {count}" for place, count in places.most_common())
    print(f"\n{runs - bad} of {runs} runs are equal to the uninterrupted one, after {places.total()} kills: {counts}")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the runs in turn")
    parser.add_argument("--strategy", default="ddp", help="of runs in several processes")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--folder", type=Path, help="keeps the runs; by default only those that differ, in a new one")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"Runs are in {folder}.")
    options = {name: getattr(arguments, name) for name in ("strategy", "accelerator", "precision")}
    sys.exit(min(study(arguments.runs, arguments.seed, arguments.processes, folder, **options), 1))


if __name__ == "__main__":
    main()
