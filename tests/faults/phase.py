"""Says what a run is doing, to somebody who waits for the moment to kill it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

PHASES = ("start", "between", "rollout", "teacher", "student", "backward", "validation")


class PhaseFile(Callback):
    """Keeps the current phase and optimizer step of the first process in a file of one line.

    Args:
        file: The file.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self._descriptor = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Follow the module's clock."""
        if not trainer.is_global_zero:
            return
        self._descriptor = os.open(self.file, os.O_CREAT | os.O_WRONLY)
        start, stop = pl_module.clock.start, pl_module.clock.stop

        def starting(phase: str) -> None:
            self._write(trainer, phase)
            start(phase)

        def stopping(phase: str) -> None:
            stop(phase)
            self._write(trainer, "between")

        pl_module.clock.start, pl_module.clock.stop = starting, stopping
        self._write(trainer, "between")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """It has no phases on the clock."""
        self._write(trainer, "validation")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Back to training."""
        self._write(trainer, "between")

    def _write(self, trainer: Trainer, phase: str) -> None:
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, f"{trainer.global_step:6} {phase:12}\n".encode(), 0)


def read(file: Path) -> tuple[int, str]:
    """Step and phase of a run; before training starts it is at step -1."""
    words = file.read_text().split() if file.exists() else []
    return (int(words[0]), words[1]) if len(words) == 2 else (-1, "start")
