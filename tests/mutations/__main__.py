"""Do the tests notice when the code is wrong? A fault is made at a time, and the tests that should catch it are run.

``python -m tests.mutations`` makes each mutation of the tables beside this file in a copy of the tree, says which ones
are caught, and exits with 1 unless all are. Results are written as they come; with the same ``--out`` those that are
caught are not tried again. Tests that fail without a mutation, too, have caught nothing: in the end they are asked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.study import Results, confirm, copy_tree, study
from tests.mutations.table import Mutation, read_table

ROOT = Path(__file__).parents[2]


def chosen(mutations: Sequence[Mutation], only: Sequence[str]) -> list[Mutation]:
    """Those of a room, or with a text in the description of their fault."""
    return [each for each in mutations if not only or any(text == each.room or text in each.fault for text in only)]


def report(mutations: Sequence[Mutation], results: Results) -> str:
    """How many were caught in each room, and which were not."""
    found = {each: record["verdict"] if (record := results.of(each)) else "not tried" for each in mutations}
    counts = Counter((each.room, verdict) for each, verdict in found.items())
    verdicts = ["caught", *sorted({*found.values()} - {"caught"})]
    lines = [f"| room | {' | '.join(verdicts)} |", f"|---|{'---|' * len(verdicts)}"]
    for room in dict.fromkeys(each.room for each in mutations):
        lines.append(f"| {room} | {' | '.join(str(counts[room, verdict]) for verdict in verdicts)} |")
    totals = Counter(found.values())
    lines.append(f"| all | {' | '.join(str(totals[verdict]) for verdict in verdicts)} |")
    return "\n".join([*lines, *(f"- {what}: {m.room}: {m.fault}" for m, what in found.items() if what != "caught")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="rooms, or parts of the descriptions of faults")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at once, each in a copy of the tree")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one mutation")
    parser.add_argument("--out", type=Path, default=Path("runs/mutations.json"))
    arguments = parser.parse_args()
    mutations, results = chosen(read_table(), arguments.only), Results(arguments.out)
    left = [each for each in mutations if (record := results.of(each)) is None or record["verdict"] != "caught"]
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        trees = [copy_tree(ROOT, Path(folder, str(number))) for number in range(arguments.jobs)]
        study(left, trees, results, arguments.timeout)
        confirm(mutations, trees[0], results, arguments.timeout)
    print(report(mutations, results))
    sys.exit(any((record := results.of(each)) is None or record["verdict"] != "caught" for each in mutations))


if __name__ == "__main__":
    main()
