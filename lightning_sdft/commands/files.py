"""The output files of a command that makes rows: a journal of all replies, and files of rows that are always whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.storage.atomic import write_text
from lightning_sdft.storage.json_text import json_line

__all__ = ["output_files", "write_rows"]


def output_files(output: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Paths by kind: ``rows.jsonl`` (``train``), ``rows.journal.jsonl`` (``journal``), and ``rows.<kind>.jsonl``.

    Raises:
        DataError: If a file of rows exists without a journal beside it, so that such a command did not write it.
    """
    path = Path(output).expanduser()
    if path.suffix != ".jsonl":
        raise DataError(f"output={path} must end in .jsonl, because the rows are lines of JSON")
    journal = path.with_suffix(".journal.jsonl")
    rows = {"train": path, **{kind: path.with_suffix(f".{kind}.jsonl") for kind in kinds}}
    for file in rows.values():
        if file.exists() and not journal.exists():
            raise DataError(
                f"{file} exists, and not from this command, which keeps {journal.name} beside it; give another output, "
                "or remove the file"
            )
    return {**rows, "journal": journal}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a file that is always whole; without rows, remove the file of an earlier run."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_text(path, "".join(map(json_line, rows)))
