"""Counts the pieces of long work, and says how many are done: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_sdft.progress.pace import Pace
from lightning_sdft.progress.texts import at_clock

__all__ = ["Work", "is_terminal"]


def is_terminal() -> bool:
    """Whether what is printed goes where a bar can move: to a terminal or a notebook."""
    console = Console()
    return (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter


class Work(AbstractContextManager["Work"]):
    """Long work whose progress is shown while the ``with`` block runs.

    Args:
        what: What is done.
        total: Number of pieces.
        pieces: What the pieces are called.
        quiet: Seconds without any line, for work that is usually short.
        shown: Whether anything is shown.
    """

    def __init__(self, what: str, total: int, pieces: str, quiet: float = 0.0, shown: bool = True) -> None:
        self.what = what
        self.total = total
        self.pieces = pieces
        self.done = 0
        self._shown = shown and total > 0
        self._pace = Pace(quiet)
        self._started = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        """Begin."""
        if self._shown and is_terminal():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, transient=True)
            self._task = self._bar.add_task(f"{self.what}, {self.pieces}", total=self.total)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End, and remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, count: int = 1) -> None:
        """Count pieces that are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif self._shown and self._pace.due(self.done / self.total):
            print(self._line(), flush=True)

    def _line(self) -> str:
        share = self.done / self.total
        pieces = f" {self.pieces}" if self.total > 1 else ""
        text = f"{self.what}: {self.done} of {self.total}{pieces} ({share:.0%})"
        if share >= 1:
            return text
        seconds = time.monotonic() - self._started
        return f"{text}, ends at {at_clock(seconds * (1 - share) / share)}"
