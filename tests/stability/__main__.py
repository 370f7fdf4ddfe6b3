"""``python -m tests.stability FOLDER``: table and picture of what ``compare`` wrote there; see ``make stability``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.stability.records import read_records
from tests.stability.report import picture, table


def main() -> None:
    """Write ``stability.md`` and ``stability.png`` beside the results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    records = read_records(results)
    text = table(records)
    (results / "stability.md").write_text(text + "\n")
    picture(records, results)
    print(text)


if __name__ == "__main__":
    main()
