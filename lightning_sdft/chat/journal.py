"""An append-only file of records, so that no reply that was paid for is lost."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fcntl import LOCK_EX, flock
from io import FileIO
from pathlib import Path
from typing import Any

from torch import distributed

from lightning_sdft.errors import DataError
from lightning_sdft.storage.json_text import json_line

__all__ = ["Journal", "process_journal", "process_records"]

log = logging.getLogger(__name__)


class Journal:
    """An append-only file of JSON objects, one per line.

    A record is on disk when ``append`` returns. A process that is killed while writing leaves an incomplete last line;
    reading skips that line, and the next ``append`` removes it. Processes that write at the same time take turns.

    Args:
        path: The file; it and its folder are created with the first record.

    Attributes:
        torn: Number of incomplete lines that were skipped or removed so far, at most one per killed process.

    Example:
        >>> import tempfile
        >>> journal = Journal(Path(tempfile.mkdtemp()) / "replies.jsonl")
        >>> journal.append({"key": "a", "reply": "yes"})
        >>> journal.records()
        [{'key': 'a', 'reply': 'yes'}]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.torn = 0

    def records(self) -> list[dict[str, Any]]:
        """All records in the order in which they were appended; an empty list if there is no file.

        Raises:
            DataError: If a line is not a JSON object, except for an incomplete last line.
        """
        if not self.path.exists():
            return []
        *lines, rest = self.path.read_bytes().split(b"\n")
        records = [self._parse(line, number) for number, line in enumerate(lines, start=1)]
        if rest:
            self.torn += 1
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record to disk.

        Args:
            record: A mapping that JSON can represent, with a ``key`` that identifies it.
        """
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write several records to disk at once, which is faster than one after another."""
        content = b"".join(json_line(record).encode() for record in records)
        if not content:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as file:
            with suppress(OSError):  # a file system without locks
                flock(file, LOCK_EX)  # another process's row that is being written is not a torn one
            self._cut_torn_line(file)
            written = 0
            while written < len(content):  # an unbuffered write may stop halfway
                written += file.write(content[written:])
            os.fsync(file.fileno())

    def _cut_torn_line(self, file: FileIO) -> None:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            self.torn += 1
            log.warning("%s: the last row was cut short by a process that was killed, and is left out", self.path)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise DataError(f"{self.path}, row {number}: not a JSON object; correct or remove the row")
        return record


def process_journal(folder: Path, name: str) -> Journal:
    """The journal that this process writes in a folder.

    Its file is ``<name>.jsonl``, or ``<name>.rank<n>.jsonl`` in a distributed run.
    """
    together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return Journal(folder / (f"{name}.rank{distributed.get_rank()}.jsonl" if together else f"{name}.jsonl"))


def process_records(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The records of all journals of this name in a folder, from all processes that ever wrote there."""
    for path in [folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.rank*.jsonl"))]:
        yield from Journal(path).records()
