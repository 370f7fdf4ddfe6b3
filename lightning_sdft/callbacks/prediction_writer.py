"""Predictions as lines of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.progress import size_text
from lightning_sdft.storage.json_text import json_line
from lightning_sdft.storage.lock import claim_file, release_file

__all__ = ["PredictionWriter"]


class PredictionWriter(Callback):
    """Writes the records of ``predict`` to a file, one line of JSON per example, as soon as each batch is done.

    References that JSON has no type for, such as dates, are written as text.

    Args:
        path: The file; with several processes each writes its own, with ``.rank<n>`` before the suffix. By default
            ``predictions.jsonl`` in the run's folder. An existing file is replaced.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file."""
        path = Path(self.path or Path(trainer.log_dir or trainer.default_root_dir) / "predictions.jsonl")
        if trainer.world_size > 1:
            path = path.with_suffix(f".rank{trainer.global_rank}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        claim_file(path)
        self._file = path.open("w", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the records of a batch."""
        if self._file is not None:
            self._file.writelines(map(json_line, outputs))
            self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file and say where it is."""
        if self._file is not None:
            self._close()
            if trainer.is_global_zero:
                size = size_text(Path(self._file.name).stat().st_size)
                print(f"predictions written to {self._file.name} ({size})")
            self._file = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the file."""
        if self._file is not None:
            self._close()
            self._file = None

    def _close(self) -> None:
        """Close the file, and let other processes write it."""
        if self._file is not None:
            self._file.close()
            release_file(Path(self._file.name))
