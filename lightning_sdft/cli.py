"""The command line: LightningCLI for fit, validate, test and predict, plain functions for everything else."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

import lightning_sdft
import lightning_sdft.callbacks
import lightning_sdft.chat
import lightning_sdft.data
import lightning_sdft.grading
import lightning_sdft.losses
import lightning_sdft.modules
from lightning_sdft.chat.base import ChatError
from lightning_sdft.checkpoint import CheckpointError
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.commands.export import export
from lightning_sdft.commands.judge import judge
from lightning_sdft.commands.memory import ELSEWHERE, MemoryTrainer
from lightning_sdft.commands.prior import prior
from lightning_sdft.commands.questions import questions
from lightning_sdft.commands.report import results_table
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.example import DataError
from lightning_sdft.evaluation.prior_tasks import PriorTaskError
from lightning_sdft.modules import CausalLMModule, NonFiniteLossError
from lightning_sdft.tokenizer import PolicyError

__all__ = ["SDFTCLI", "entry_point", "main"]


class LogConfig(SaveConfigCallback):
    """Saves the config beside the checkpoints, and shows it in TensorBoard."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the config as text."""
        text = self.parser.dump(self.config, skip_none=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", f"```yaml\n{text}\n```")


class SettingError(ValueError):
    """A setting that a class refuses; the message names it."""


class SDFTCLI(LightningCLI):
    """LightningCLI without the traps: a checkpoint never overrides what the user typed."""

    def instantiate_classes(self) -> None:
        """Build trainer, module and data module.

        Raises:
            SettingError: If one of them refuses a setting.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise SettingError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer without callbacks that need what was switched off; Lightning would refuse them."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand == "memory":
            trainer = MemoryTrainer(**ELSEWHERE)
            trainer.asked = config
            return trainer
        idle: tuple[type[Callback], ...] = ()
        if config.get("logger") is False:
            idle += (LearningRateMonitor, DeviceStatsMonitor)
        if config.get("enable_progress_bar") is False:
            idle += (ProgressBar,)
        config["callbacks"] = [each for each in config.get("callbacks") or [] if not isinstance(each, idle)]
        return super().instantiate_trainer(**kwargs)

    def validate(self, verbose: bool = True, **arguments: Any) -> None:
        """Evaluate on the validation sets, and print a table that can be read where Lightning's cannot."""
        self.trainer.validate(verbose=False, **arguments)
        if verbose:
            self._print_results(arguments)

    def test(self, verbose: bool = True, **arguments: Any) -> None:
        """Evaluate on the test sets, and print a table."""
        self.trainer.test(verbose=False, **arguments)
        if verbose:
            self._print_results(arguments)

    def _print_results(self, arguments: Mapping[str, Any]) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if metrics and self.trainer.is_global_zero:
            Console().print(results_table(metrics, f"Accuracy of {arguments.get('ckpt_path') or self.model.model}"))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning, ``preflight`` and ``memory``."""
        before = {"model", "datamodule"}
        return {**LightningCLI.subcommands(), "preflight": before, "memory": before}

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is; Lightning would put the checkpoint's hyper-parameters over it."""


COMMANDS: dict[str, Callable[..., object]] = {
    "demonstrate": demonstrate,
    "export": export,
    "judge": judge,
    "prior": prior,
    "questions": questions,
}
"""Subcommands that are plain functions: name to function, whose arguments are the options."""

DESCRIPTION = (
    "Fine-tune language models on demonstrations without making them forget. Beside the subcommands below there are: "
    f"{', '.join(COMMANDS)} (see `lightning-sdft export --help`)."
)


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
        trainer_class=MemoryTrainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # LightningCLI would build optimizers before the model has parameters
        seed_everything_default=42,
        save_config_callback=LogConfig,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"version": lightning_sdft.__version__, "description": DESCRIPTION},
        args=args,
        run=run,
    )


NOISE = [
    "'set_vital' is deprecated",  # torchdata calls it
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning calls it
    "Found .* module\\(s\\) in eval mode",  # the teacher, which is meant to be
    ".* does not have many workers",  # text is read in no time
    "It is recommended to use `self.log\\(.*sync_dist=True",  # accuracies, which are the same in all processes
    "Total length of `list` across ranks is zero",  # a run without evaluation
]
"""Warnings of other packages that say nothing to our users."""


REFUSALS = (ChatError, CheckpointError, DataError, NonFiniteLossError, PolicyError, PriorTaskError, SettingError)
"""Errors whose message says what to do, so that nobody needs a traceback."""


def entry_point() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        if arguments and arguments[0] in COMMANDS:
            auto_cli(COMMANDS[arguments[0]], args=arguments[1:], as_positional=False)
        else:
            main()
    except (
        ChatError,
        CheckpointError,
        DataError,
        NonFiniteLossError,
        PolicyError,
        PriorTaskError,
        SettingError,
    ) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    entry_point()
