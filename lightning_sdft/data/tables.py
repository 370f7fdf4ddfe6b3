"""Reading tables from files, folders and the hub, with errors that name the file and the row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_sdft.data.csv_files import separated
from lightning_sdft.data.json_files import BadRow, Row, json_lines, json_list, shortened
from lightning_sdft.errors import DataError, did_you_mean
from lightning_sdft.storage.neighbours import neighbour_hint

__all__ = ["Row", "hold_out", "open_rows", "read_rows", "take"]

T = TypeVar("T")

READABLE = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
"""Suffixes of the files that can be read."""

SUFFIXES = (*READABLE, ".txt", ".arrow", ".gz")
"""Suffixes of file names. A full stop alone does not make a file: hub ids may contain one too."""


def read_rows(source: str, split: str | None = None, argument: str | None = None) -> list[Row]:
    """Read a table as a list of rows, each a dictionary from column to value.

    Args:
        source: A folder written by ``datasets.save_to_disk``, a ``.json`` file (a list of objects, or one object per
            line), a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file, or otherwise the id of a data set on the
            Hugging Face hub, if needed with a configuration and a revision: ``owner/name:configuration@revision``.
        split: Split to read if the source has several; a source without splits is read completely.
        argument: Name of the setting that gave the source, for error messages.

    Raises:
        DataError: If there is no such source, if it or a row of it cannot be read, or if it has no rows.
    """
    rows = open_rows(source, split, argument)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, BadRow):
            raise DataError(row.problem)
    return rows if isinstance(rows, list) else list(rows)


def open_rows(source: str, split: str | None = None, argument: str | None = None) -> Sequence[Row]:
    """Like :func:`read_rows`, but the rows of a saved or hub data set are read from disk only when accessed.

    A row of a file that cannot be read is a :class:`~lightning_sdft.data.json_files.BadRow`.
    """
    rows: Sequence[Row]
    path = Path(source).expanduser()
    if path.is_dir():
        rows = _open_folder(path, split)
    elif path.is_file():
        rows = _read_file(path)
    elif _looks_like_path(source):
        setting, beside = f" given by {argument}" if argument else "", neighbour_hint(path, _is_table)
        raise DataError(f"{source}: no such file or folder (from {Path.cwd()}){beside}; correct the path{setting}")
    else:
        rows = _open_hub(source, split, argument)
    if not rows:
        raise DataError(f"{source}: no rows; give a source with at least one")
    return rows


def take(row: Row, column: str, kind: type[T], where: str) -> T:
    """Get the value of a column and check its type.

    Args:
        row: The row.
        column: The column.
        kind: Expected type of the value; ``object`` accepts any.
        where: File and row for error messages, such as ``train.json, row 7`` (rows are counted from 1).

    Raises:
        DataError: If the row has no such column, or its value has another type.
    """
    if column not in row:
        raise DataError(
            f"{where}: no column {column!r}{did_you_mean(column, row)}; the columns are "
            f"{', '.join(map(repr, row)) or 'none'}. Add it, or rename one of these (by the data module's argument for "
            "the column, where it has one)"
        )
    value = row[column]
    if not isinstance(value, kind):
        found = "null" if value is None else f"{type(value).__name__} ({shortened(value)})"
        raise DataError(f"{where}: column {column!r} holds {found}, not {kind.__name__}; correct the row")
    return value


def hold_out(rows: Sequence[T], shares: Sequence[float], seed: int) -> list[list[T]]:
    """Hold out a random part of the rows for each share; each part keeps the order of the rows.

    Args:
        rows: The rows.
        shares: Share of the rows to hold out in each part.
        seed: Seed for choosing the rows.

    Returns:
        The remaining rows, then the held-out parts.

    Raises:
        DataError: If a share is negative, or if nothing remains.

    Example:
        >>> [len(part) for part in hold_out(range(10), [0.2, 0.1], seed=0)]
        [7, 2, 1]
    """
    if min(shares, default=0) < 0 or sum(shares) >= 1:
        raise DataError(f"shares of {list(shares)} cannot be held out; they must be >= 0 and leave rows to train on")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    parts = []
    for share in shares:
        size = round(share * len(rows))
        parts.append(order[:size])
        order = order[size:]
    return [[rows[index] for index in sorted(part)] for part in (order, *parts)]


def _looks_like_path(source: str) -> bool:
    """Whether a source cannot be a hub id, which has the form ``name`` or ``owner/name``."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).suffix in SUFFIXES


def _is_table(path: Path) -> bool:
    """Whether there is a table: a file that can be read, or a folder of a saved data set."""
    saved = ("dataset_info.json", "dataset_dict.json")
    return path.suffix.lower() in READABLE or any((path / name).is_file() for name in saved)


def _read_file(path: Path) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise DataError(f"{path}: cannot read {suffix or 'files without suffix'}; give {', '.join(READABLE)}")
    if suffix == ".parquet":
        return _read_parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    if suffix in (".csv", ".tsv"):
        return separated(str(path), text, tabs=suffix == ".tsv")
    return (json_list if text.lstrip().startswith("[") else json_lines)(str(path), text)


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # late, as in _open_folder

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); write it anew") from error
    return rows


def _open_folder(path: Path, split: str | None) -> Sequence[Row]:
    import datasets  # late: importing takes a second, and other domains do not need it

    try:
        table = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a folder written by datasets.save_to_disk ({error}); give such a folder, or a file in it"
        ) from error
    return _of_split(table, str(path), split)


def _open_hub(source: str, split: str | None, argument: str | None) -> Sequence[Row]:
    import datasets

    located, _, revision = source.partition("@")
    name, _, configuration = located.partition(":")
    try:
        table = datasets.load_dataset(name, configuration or None, revision=revision or None)
    except Exception as error:  # the hub, the network and the builders each raise their own exceptions
        raise DataError(
            f"{source}: neither a file nor a readable data set of the Hugging Face hub ({error})"
            f"{neighbour_hint(Path(source), _is_table)}; correct the name, or "
            f"download the data and give its file or folder{f' by {argument}' if argument else ''}"
        ) from error
    return _of_split(table, source, split)


def _of_split(table: Any, source: str, split: str | None) -> Sequence[Row]:
    if isinstance(table, dict):  # a DatasetDict
        if len(table) == 1:
            split = next(iter(table))
        if split not in table:
            asked = "several splits" if split is None else f"no split {split!r}"
            raise DataError(
                f"{source}: {asked}; it has {sorted(table)}. Save the split that you want as a folder or file"
            )
        table = table[split]
    rows: Sequence[Row] = table
    return rows
