"""The command line: LightningCLI for fit, validate, test and predict, plain functions for everything else."""

from __future__ import annotations

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

import lightning_sdft
import lightning_sdft.callbacks
import lightning_sdft.data
import lightning_sdft.losses
import lightning_sdft.modules
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.modules import CausalLMModule

__all__ = ["SDFTCLI", "entry_point", "main"]


class LogConfig(SaveConfigCallback):
    """Saves the config beside the checkpoints, and shows it in TensorBoard."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config as text."""
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", f"```yaml\n{text}\n```")


class SDFTCLI(LightningCLI):
    """LightningCLI without the traps: a checkpoint never overrides what the user typed."""

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is; Lightning would put the checkpoint's hyper-parameters over it."""


def main(args: ArgsType = None, run: bool = True) -> SDFTCLI:
    """Parse arguments, build trainer, module and data module, and run the subcommand.

    Args:
        args: Command line arguments as a list, or a config as a dictionary; by default those of the process.
        run: Whether to run the subcommand; otherwise there is none in ``args``, and the caller uses ``trainer``,
            ``model`` and ``datamodule`` of the result.
    """
    return SDFTCLI(
        CausalLMModule,
        DemonstrationDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # LightningCLI would build optimizers before the model has parameters
        seed_everything_default=42,
        save_config_callback=LogConfig,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"version": lightning_sdft.__version__},
        args=args,
        run=run,
    )


def entry_point() -> None:
    """The console script."""
    main()


if __name__ == "__main__":
    sys.exit(entry_point())
