"""The command line: LightningCLI for fit, validate, test and predict, plain functions for everything else."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from typing import Any

from jsonargparse import Namespace, auto_cli
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

import lightning_sdft
import lightning_sdft.callbacks
import lightning_sdft.chat
import lightning_sdft.data
import lightning_sdft.grading
import lightning_sdft.losses
import lightning_sdft.modules
from lightning_sdft.callbacks.last_checkpoints import LastCheckpoints
from lightning_sdft.checkpoint.resume import continue_run, last_checkpoint
from lightning_sdft.commands.config_files import base_config
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.commands.export import export
from lightning_sdft.commands.judge import judge
from lightning_sdft.commands.memory import ELSEWHERE, MemoryTrainer
from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.commands.prior import prior
from lightning_sdft.commands.questions import questions
from lightning_sdft.commands.report import results_table
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import (
    ChatError,
    CheckpointError,
    DataError,
    PolicyError,
    PriorTaskError,
    RolloutError,
    SettingError,
)
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.continual import continual
from lightning_sdft.experiments.sweep import sweep
from lightning_sdft.modules import CausalLMModule, NonFiniteLossError
from lightning_sdft.trust import split_trust, trusting

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

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what is given; Lightning would warn that the process has arguments, too."""
        given = isinstance(args, dict | Namespace)
        # What is given is a dictionary or a namespace, and what is not is a list.
        self.config = parser.parse_object(args) if given else parser.parse_args(args)  # type: ignore[arg-type]

    def before_instantiate_classes(self) -> None:
        """Train for one epoch where nothing says how long; Lightning would train for 1,000."""
        trainer = self._get(self.config, "trainer")
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            trainer.max_epochs = 1

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
        if config.get("enable_checkpointing") is False:
            idle += (ModelCheckpoint,)
        callbacks = [each for each in config.get("callbacks") or [] if not isinstance(each, idle)]
        # What a run goes on from is written last, so that it knows of the best checkpoint of the same validation.
        config["callbacks"] = sorted(callbacks, key=lambda each: isinstance(each, LastCheckpoints))
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

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Let ``last`` be the newest whole checkpoint; Lightning's would be looked for in the folder of a new run."""
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if arguments.get("ckpt_path") == "last":
            find = continue_run if subcommand == "fit" else last_checkpoint
            arguments["ckpt_path"] = find(self.trainer)
        return arguments

    def _print_results(self, arguments: Mapping[str, Any]) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if metrics and self.trainer.is_global_zero:
            Console().print(results_table(metrics, f"Accuracy of {arguments.get('ckpt_path') or self.model.model}"))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning, without the choice to run what is in a checkpoint; ``preflight`` and ``memory``."""
        skipped = {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}
        return {**skipped, "preflight": {"model", "datamodule"}, "memory": {"model", "datamodule"}}

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is; Lightning would put the checkpoint's hyper-parameters over it."""


COMMANDS: dict[str, Callable[..., object]] = {
    "compare": compare,
    "continual": continual,
    "demonstrate": demonstrate,
    "export": export,
    "judge": judge,
    "prior": prior,
    "questions": questions,
    "sweep": sweep,
}
"""Subcommands that are plain functions: name to function, whose arguments are the options."""

DESCRIPTION = (
    "Fine-tune language models on demonstrations without making them forget. Beside the subcommands below there are: "
    f"{', '.join(COMMANDS)} (see `lightning-sdft export --help`). With any of them, `--trust mylab` lets configs name "
    "classes of your own package mylab."
)


def main(args: ArgsType = None, run: bool = True, trust: Sequence[str] = ()) -> SDFTCLI:
    """Parse arguments, build trainer, module and data module, and run the subcommand.

    What ``args`` leave open is as in ``configs/base.yaml``: they stand on it.

    Args:
        args: Command line arguments as a list, or a config as a dictionary; by default those of the process.
        run: Whether to run the subcommand; otherwise there is none in ``args``, and the caller uses ``trainer``,
            ``model`` and ``datamodule`` of the result.
        trust: Packages of your own whose classes the config names, as by ``--trust`` on the command line.

    Raises:
        SettingError: If a class is not of a trusted package, or refuses a setting.
    """
    if not isinstance(args, dict | Namespace):
        typed, args = split_trust(sys.argv[1:] if args is None else args)
        trust = [*trust, *typed]
    base = {"default_config_files": [escape(str(base_config()))]}  # where jsonargparse expects patterns
    bases: dict[str, Any] = {name: dict(base) for name in SDFTCLI.subcommands()} if run else base
    with trusting(*trust):
        return SDFTCLI(
            CausalLMModule,
            DemonstrationDataModule,
            trainer_class=MemoryTrainer,
            parser_class=CommandParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # LightningCLI would build optimizers before the model has parameters
            seed_everything_default=42,
            save_config_callback=LogConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"version": lightning_sdft.__version__, "description": DESCRIPTION, **bases},
            args=args,
            run=run,
        )


NOISE = [
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning calls it
    "Found .* module\\(s\\) in eval mode",  # the teacher, which is meant to be
    ".* does not have many workers",  # text is read in no time
    "It is recommended to use `self.log\\(.*sync_dist=True",  # accuracies, which are the same in all processes
    "Total length of `list` across ranks is zero",  # a run without evaluation
    "`ModelCheckpoint\\(monitor='val/accuracy'\\)` could not find",  # a run without evaluation
    "Checkpoint directory .* exists and is not empty",  # a run that goes on
]
"""Warnings of other packages that say nothing to our users."""


SIGTERM_EXIT = 128 + signal.SIGTERM
"""What a shell and SLURM see of a process that SIGTERM ended."""

REFUSALS = (
    ChatError,
    CheckpointError,
    DataError,
    NonFiniteLossError,
    PolicyError,
    PriorTaskError,
    RolloutError,
    SettingError,
)
"""Errors whose message says what to do, so that nobody needs a traceback."""


def run_command(command: Callable[..., object], arguments: list[str]) -> None:
    """Run a plain function with its arguments from a command line."""
    auto_cli(command, args=arguments, as_positional=False, parser_class=CommandParser, description="")


def entry_point() -> None:
    """The console script."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        trust, arguments = split_trust(sys.argv[1:])
        if arguments and arguments[0] in COMMANDS:
            with trusting(*trust):
                run_command(COMMANDS[arguments[0]], arguments[1:])
        else:
            main(arguments, trust=trust)
    except REFUSALS as error:
        sys.exit(f"error: {error}")
    except SIGTERMException:
        # Of several processes the first one says so: it would be killed for another one that did not end with 0.
        sys.exit(SIGTERM_EXIT if getattr(rank_zero_only, "rank", 0) == 0 else 0)


if __name__ == "__main__":
    entry_point()
