"""Lines about an experiment: which run begins, how far all of them are, and when the last will end."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from threading import Lock

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.callbacks.run_lines import share_done
from lightning_sdft.progress import Pace, at_clock

__all__ = ["RunShare", "RunsLines"]

SHARE = "share"
"""File in the folder of a run with the share of its training that is done."""

SECONDS_BETWEEN_SHARES = 1.0

LARGEST = 0.99
"""The share of a run that has not ended."""

FORETELLING = 0.1
"""Runs that are done before the end is foretold: the first steps come behind a start and an evaluation."""


class RunShare(Callback):
    """Writes to the folder of a run how far it is, for the process that waits for it.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: object) -> None:
        """Write it, once in a while."""
        now = time.monotonic()
        if trainer.is_global_zero and now - self._written >= SECONDS_BETWEEN_SHARES:
            self._written = now
            (self.folder / SHARE).write_text(f"{share_done(trainer):.4f}\n")


class RunsLines:
    """Writes a line when a run begins, and at every twentieth of all runs or every ten minutes one about all of them.

    Several threads may use it.

    Args:
        total: Number of runs that have not been performed yet, if it is known already.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self._lock = Lock()
        self._pace = Pace()
        self._started = time.monotonic()
        self._running: list[Path] = []
        self._ended = 0

    def begin(self, folder: Path) -> None:
        """A run begins."""
        with self._lock:
            self._running.append(folder)
            number = self._ended + len(self._running)
            print(f"begins: run {number} of {max(self.total, number)}, {_name(folder)}", flush=True)

    def end(self, folder: Path) -> None:
        """A run has ended, well or not."""
        with self._lock:
            self._running.remove(folder)
            self._ended += 1

    def leave_out(self) -> None:
        """A run of the total has been performed before, or cannot begin."""
        with self._lock:
            self.total -= 1

    def look(self) -> None:
        """Write how far the runs are, if that is due."""
        with self._lock:
            shares = {folder: _share(folder) for folder in self._running}
            done = self._ended + sum(shares.values())
            whole = done / max(self.total, self._ended + len(shares), 1)
            if 0 < whole < 1 and self._pace.due(whole):
                print(self._line(shares, whole), flush=True)

    def _line(self, shares: dict[Path, float], whole: float) -> str:
        now = ", ".join(f"{_name(folder)} {share:.0%}" for folder, share in shares.items())
        line = f"{whole:.0%} of all runs: {self._ended} ended, {now or 'none begun'}"
        if self._ended + sum(shares.values()) < FORETELLING:
            return line
        return f"{line}; ends at about {at_clock((time.monotonic() - self._started) * (1 - whole) / whole)}"


def _share(folder: Path) -> float:
    """The share of a run that is done; 0 if it has said nothing yet."""
    with suppress(OSError, ValueError):
        return min(float((folder / SHARE).read_text()), LARGEST)
    return 0.0


def _name(folder: Path) -> str:
    """The folder of a run within that of all runs."""
    parts = folder.parts
    start = len(parts) - parts[::-1].index("runs") if "runs" in parts else len(parts) - 1
    return "/".join(parts[start:])
