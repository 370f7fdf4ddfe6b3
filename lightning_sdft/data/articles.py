"""Articles that a model is to learn from: where they are read from, and how long ones are cut into passages."""

from __future__ import annotations

from pathlib import Path

from lightning_sdft import zoo
from lightning_sdft.data.tables import Row, read_rows, take
from lightning_sdft.errors import DataError

__all__ = ["passages", "read_articles"]

SUFFIXES = (".md", ".txt")

BREAKS = ("\n\n", "\n", ". ", " ")
"""Where a text is cut, the best places first."""


def read_articles(source: str) -> dict[str, str]:
    """Read articles.

    Args:
        source: A folder of ``.txt`` and ``.md`` files, whose names without suffix are the ids of the articles, or rows
            with the columns ``article`` (the id) and ``text``: see :func:`~lightning_sdft.data.tables.read_rows`.
            Names that begin with ``zoo/events`` are in this package.

    Returns:
        Id to text; blanks at its ends are left out.

    Raises:
        DataError: If an article cannot be read, is empty, or has the id of another one.
    """
    path = Path(zoo.file(source)).expanduser()
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else []
    articles: dict[str, str] = {}
    if files:
        for file in files:
            _add(articles, file.stem, _text(file), str(file))
        return articles
    for number, row in enumerate(read_rows(str(path) if path.exists() else source, "train", "data.articles"), start=1):
        _add(articles, *_row(row, f"{source}, row {number}"))
    return articles


def passages(text: str, size: int) -> list[str]:
    """Cut a text into passages, which joined together are the text.

    A cut is made behind a paragraph, else a line, a sentence or a word, and within a word only if there is none of
    these in the second half of a passage.

    Args:
        text: The text.
        size: Length in characters that no passage exceeds.

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
        raise DataError(f"{where}: there is an article {name!r} before; give each an id of its own")
    articles[name] = text.strip()
