"""Cells and tables of text, plain and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_sdft.inspection.records import TokenLook
from lightning_sdft.inspection.visible import level, visible

__all__ = ["Cell", "shaded", "shortened", "table"]

SPECIAL = re.compile(r"[\\`*_{}\[\]<>&|~]")
"""What Markdown or HTML would take for more than text."""

MARKS = ("", "em", "em", "strong", "strong", "strong")
"""HTML elements by shade: TensorBoard shows no colours in texts, and few elements."""


@dataclass(frozen=True)
class Cell:
    """A text, and the same as Markdown, for TensorBoard."""

    text: str
    markdown: str

    @classmethod
    def of(cls, text: str) -> Cell:
        """A text that stays as it is."""
        return cls(text, escaped(text))


def escaped(text: str) -> str:
    """A text as Markdown that shows just that text, in one line of a table."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", visible(text)).replace("\n", "<br>")


def shortened(text: str, most: int) -> str:
    """A text, without its middle if it has more characters."""
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[len(text) - most // 2 :]}"


def shaded(tokens: Sequence[TokenLook], most: int) -> Cell:
    """A rollout, in which the tokens where the teacher is far from the student are slanted, and bold if it is farther.

    Args:
        tokens: The tokens.
        most: Characters; of a longer rollout the middle is left out.
    """
    parts, seen, total = [], 0, sum(len(token.text) for token in tokens)
    omitted = False
    for token in tokens:
        begin, seen = seen, seen + len(token.text)
        if total > most and begin < total - most // 2 and seen > most // 2:
            parts += [] if omitted else [Cell.of(" [...] ")]
            omitted = True
            continue
        mark, cell = MARKS[level(token.kl)], Cell.of(token.text)
        parts.append(Cell(cell.text, f"<{mark}>{cell.markdown}</{mark}>") if mark else cell)
    return Cell("".join(each.text for each in parts), "".join(each.markdown for each in parts))


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *([cell.markdown for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
