"""Compare with TRL and with plain transformers: ``python -m tests.benchmarks`` runs everything (hours of a core).

Writes ``.bench/NAME.json`` for each benchmark and prints a Markdown table.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from tests.benchmarks import commands, cost, generations, loss, qlora, rollout, step, teacher, trees
from tests.benchmarks.measure import OUTPUT, machine, table, write
from tests.benchmarks.training import QUESTIONS
from tests.real.smollm2 import model_folder

BENCHMARKS = {
    "loss": loss.rows,
    "rollout": rollout.rows,
    "cost": cost.rows,
    "step": step.rows,
    "generations": generations.rows,
    "teacher": teacher.rows,
    "trees": trees.rows,
    "qlora": qlora.rows,
    "commands": commands.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="*", default=list(BENCHMARKS), help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--repetitions", type=int, default=3, help="measurements of each side")
    arguments = parser.parse_args()
    if not QUESTIONS.is_file():
        parser.exit(1, f"no questions at {QUESTIONS}; set LIGHTNING_SDFT_DATA to the folder of the real files\n")
    model_folder()  # converts it, before anything is measured
    rows = []
    for name in arguments.benchmarks:
        found = BENCHMARKS[name](arguments.repetitions)
        write(name, found)
        rows += found
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n{table(rows)}")
    bound = [row for row in rows if row.must is not None]
    print(f"\n{sum(row.holds for row in bound)} of {len(bound)} bounds hold; details in {OUTPUT}")


if __name__ == "__main__":
    main()
