"""The paper's main table and two of its figures on the laptop model: ``python -m tests.reproduce --out FOLDER``.

Runs ``compare`` and ``continual`` with the configs of this repository, which go on where they were, and says which of
the paper's sentences hold. It ends with an error if one does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.reproduce.claims import Claim, Record, figure_3, figure_8, table_5

ROOT = Path(__file__).parents[2]

EXPERIMENTS: dict[str, tuple[str, str, Callable[[Sequence[Record]], list[Claim]]]] = {
    "table5": ("compare", "configs/compare/laptop.yaml", table_5),
    "figure3": ("continual", "configs/continual/laptop.yaml", figure_3),
    "figure8": ("compare", "configs/compare/laptop_teacher.yaml", figure_8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    options = parser.parse_args()
    started, claims = time.monotonic(), []
    for name in options.only:
        command, config, claims_of = EXPERIMENTS[name]
        out = options.out.absolute() / name
        arguments = [command, "--config", config, "--out", str(out), f"--jobs={options.jobs}"]
        if name == "figure8" and (out.parent / "table5").exists():  # the EMA teacher's runs are runs of that table
            arguments += ["--reuse", json.dumps([str(out.parent / "table5")])]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "lightning_sdft", *arguments], check=True, cwd=ROOT, env=variables)
        claims += claims_of(json.loads((out / "results.json").read_text()))
    print("\n| the paper says | measured | holds |\n|---|---|---|", *claims, sep="\n")
    print(f"\nAfter {(time.monotonic() - started) / 60:.0f} minutes.")
    failed = sum(not claim.holds for claim in claims)
    sys.exit(f"{failed} of {len(claims)} do not hold" if failed else 0)


if __name__ == "__main__":
    main()
