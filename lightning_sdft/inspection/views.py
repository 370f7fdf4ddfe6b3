"""What is shown of a rollout: answers of student and teacher, and what both say at each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, ConsoleOptions, RenderResult

from lightning_sdft.inspection import html, terminal
from lightning_sdft.inspection.records import RolloutLook

__all__ = ["Inspection"]

WIDTH = 120
"""Columns of the plain text."""


@dataclass(frozen=True, repr=False)
class Inspection:
    """Rollouts to look at: coloured in Jupyter and in a terminal, and as plain text with ``str``.

    Args:
        looks: One for each example.
        temperature: The temperature of the student in the loss, at which all probabilities are.
    """

    looks: Sequence[RolloutLook]
    temperature: float

    def __repr__(self) -> str:
        return f"<Inspection of {len(self.looks)} rollouts; print() shows them>"

    def _repr_html_(self) -> str:
        return html.rendered(self.looks, self.temperature)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from terminal.rendered(self.looks, self.temperature)

    def __str__(self) -> str:
        text = StringIO()
        Console(file=text, width=WIDTH, color_system=None).print(self)
        return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
