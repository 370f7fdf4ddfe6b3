"""``python -m tests.forecast``: how well the gap before training foretells what SDFT gains; see the study beside it."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from tests.forecast.study import cases, fitted, run


def main() -> None:
    """Run all cases, and print the line that foretells the gain from the gap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool, arguments.out.open("w") as file:
        for row in pool.map(run, cases(arguments.seed)):
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
    names = ("gap", "gain", "before")
    gaps, gains, bases = (torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in names)
    print(fitted(gaps, gains, bases), f"correlation {torch.corrcoef(torch.stack([gaps, gains]))[0, 1]:.3f}")


if __name__ == "__main__":
    main()
