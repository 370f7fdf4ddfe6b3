"""Reading rows of comma- or tab-separated values; a row with too many or too few cells is a bad row."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

from lightning_sdft.data.json_files import BadRow, Row
from lightning_sdft.errors import DataError

__all__ = ["separated"]


def separated(name: str, text: str, tabs: bool = False) -> list[Row]:
    """The rows of a table of separated values, whose first line names the columns.

    A cell may stand in double quotes, within which a quote is written twice, and lines may end. An empty cell has no
    value; lines without any are passed over. Values are separated by commas, or by semicolons if the first line has
    semicolons and no comma, as spreadsheets write them where the comma is the decimal sign.

    Args:
        name: The file, for messages.
        text: Its content, in which lines end as in Python.
        tabs: Whether values are separated by tabs.

    Raises:
        DataError: If the first line does not name the columns, or if quotes are not closed.
    """
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = "\t" if tabs else ";" if ";" in first and "," not in first else ","
    rows: list[Row] = []
    lines = _lines(name, text, delimiter)
    _, header = next(lines, (0, []))
    columns = [column.strip() for column in header]
    _check_header(name, columns)
    for line, cells in lines:
        if len(cells) == len(columns):
            rows.append({column: cell or None for column, cell in zip(columns, cells, strict=True)})
            continue
        rows.append(
            BadRow(
                f"{name}, row {len(rows) + 1} (line {line}): {len(cells)} cells, but the first line names "
                f"{len(columns)} columns; put a cell with {'a tab' if tabs else repr(delimiter)} or a line end in it "
                "into double quotes"
            )
        )
    return rows


def _check_header(name: str, columns: list[str]) -> None:
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated or "" in columns:
        problem = f"names {repeated[0]!r} more than once" if repeated else "has a cell without a name"
        raise DataError(f"{name}, line 1: the first line must name the columns, but {problem}; correct it")


def _lines(name: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that have values, each with the number of its first line in the text."""
    with _long_cells():
        reader = csv.reader(StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
        count, line = 0, 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                where = f"row {count} (from line {line})" if count else "line 1"
                raise DataError(
                    f"{name}, {where}: quotes do not match ({error}); write a quote within a cell twice, and close "
                    "each cell that begins with one"
                ) from error
            if cells is None:
                return
            if any(cells):
                yield line, cells
                count += 1
            line = reader.line_num + 1


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells be as long as they are; the limit of the csv module is that of all its readers."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
