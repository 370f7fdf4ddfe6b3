"""``python -m tests.stability FOLDER``: tables and picture of what ``compare`` wrote there; see ``make stability``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.stability.records import read_records
from tests.stability.report import by_skill, picture, table


def main() -> None:
    """Write ``stability.md`` and ``stability.png`` beside the results, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--draw", nargs="+", help="the remedies in the picture, by default all")
    arguments = parser.parse_args()
    results, drawn = arguments.results, arguments.draw
    records = read_records(results)
    text = f"{table(records)}\n\n{by_skill(records)}"
    (results / "stability.md").write_text(text + "\n")
    picture([each for each in records if drawn is None or each.method in drawn], results)
    print(text)


if __name__ == "__main__":
    main()
