"""Articles that a model learns from: reading them, and cutting long ones into passages."""

from __future__ import annotations

from pathlib import Path

from lightning_sdft import zoo
from lightning_sdft.data.tables import Row, read_rows, take
from lightning_sdft.errors import DataError
from lightning_sdft.records import text_problem

__all__ = ["passages", "read_articles"]

SUFFIXES = (".md", ".txt")

BREAKS = ("\n\n", "\n", ". ", " ")
"""Strings that a text may be cut after, the most preferred first."""


def read_articles(source: str, argument: str) -> dict[str, str]:
    """Read articles from a folder of text files or from a table.

    Args:
        source: A folder of ``.txt`` and ``.md`` files, where each file name without its suffix is the article's id, or
            a table with the columns ``article`` (the id) and ``text``: see
            :func:`~lightning_sdft.data.tables.read_rows`. Names that begin with ``zoo/events`` refer to files in this
            package.
        argument: Name of the setting that gave the source, for errors.

    Returns:
        A dictionary from id to text; white space at either end of the text is removed.

    Raises:
        DataError: If an article cannot be read or is empty, or if two articles have the same id.
    """
    path = Path(zoo.file(source)).expanduser()
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else []
    articles: dict[str, str] = {}
    if files:
        for file in files:
            _add(articles, file.stem, _text(file), str(file))
        return articles
    rows = read_rows(str(path) if path.exists() else source, "train", argument)
    for number, row in enumerate(rows, start=1):
        _add(articles, *_row(row, f"{source}, row {number}"))
    return articles


def passages(text: str, size: int) -> list[str]:
    """Cut a text into passages; joining them gives the text again.

    A passage ends after a paragraph if possible, otherwise after a line, a sentence or a word. A word is cut only if
    none of these ends in the second half of the passage.

    Args:
        text: The text.
        size: Maximum length of a passage in characters.

    Example:
        >>> passages("One two. Three four five.", 12)
        ['One two. ', 'Three four ', 'five.']
    """
    parts = []
    while len(text) > size:
        ends = (text.rfind(mark, 0, size) + len(mark) for mark in BREAKS)
        end = next((end for end in ends if size / 2 < end <= size), size)
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text]


def _row(row: Row, where: str) -> tuple[str, str, str]:
    return take(row, "article", str, where), take(row, "text", str, where), where


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def _add(articles: dict[str, str], name: str, text: str, where: str) -> None:
    if not text.strip():
        raise DataError(f"{where}: the article is empty; write it or remove it")
    if name in articles:
        raise DataError(f"{where}: an earlier article has the same id {name!r}; give each article its own id")
    if (problem := text_problem([name, text])) is not None:
        raise DataError(f"{where}: {problem}")
    articles[name] = text.strip()
