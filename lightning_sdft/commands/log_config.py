"""Saves the config of a run beside what it logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lightning_sdft.callbacks.loggers import log_text
from lightning_sdft.callbacks.run_logger import LAST

__all__ = ["LogConfig"]


class LogConfig(SaveConfigCallback):
    """Saves the config in the folder of the logger, and logs it as a text.

    An evaluation that writes into the folder of a run leaves the config of the run there.

    Without a logger it is not saved: Lightning would write it to the current folder, over a config of that name.
    """

    def __init__(self, *options: Any, **further: Any) -> None:
        # Lightning would make the text for itself, which takes a tenth of the time to the laptop model's first step.
        super().__init__(*options, **{**further, "save_to_log_dir": False})
        self._folder: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config."""
        self._folder = trainer.log_dir  # in all processes, which agree on it
        theirs = self._folder is not None and stage != "fit" and Path(self._folder, self.config_filename).exists()
        if trainer.loggers and not theirs:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config, and log it as text, which TensorBoard shows below all others; it can fold none of it."""
        text = self.parser.dump(self.config, skip_none=False)
        if self._folder is not None:
            files = get_filesystem(self._folder)
            files.makedirs(self._folder, exist_ok=True)
            with files.open(os.path.join(self._folder, self.config_filename), "w") as file:
                file.write(text)
        log_text(trainer, f"{LAST}config", text, f"```yaml\n{text}\n```")
