"""Saves the config of a run beside what it logs."""

from __future__ import annotations

from pathlib import Path

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config."""
        theirs = trainer.log_dir is not None and stage != "fit" and Path(trainer.log_dir, self.config_filename).exists()
        if trainer.loggers and not theirs:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config as text, which TensorBoard shows below all others; it can fold none of it."""
        text = self.parser.dump(self.config, skip_none=False)
        log_text(trainer, f"{LAST}config", text, f"```yaml\n{text}\n```")
