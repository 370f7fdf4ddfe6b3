"""``fit`` and Lightning's other subcommands: builds trainer, module and data module from configs and arguments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from importlib.metadata import version
from typing import Any, cast

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from lightning_sdft.callbacks.last_checkpoints import LastCheckpoints
from lightning_sdft.checkpoint import check_whole
from lightning_sdft.checkpoint.resume import continue_run, last_checkpoint, write_beside
from lightning_sdft.commands.before_fit import settle_micro_batches
from lightning_sdft.commands.config_files import base_config
from lightning_sdft.commands.log_config import LogConfig
from lightning_sdft.commands.memory import ELSEWHERE, MemoryTrainer
from lightning_sdft.commands.next_steps import after_evaluation, after_fit, after_preflight, after_signal
from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.commands.preflight import PreflightTrainer, proposal_file
from lightning_sdft.commands.report import results_table
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.distributed.strategy import check_strategy_name
from lightning_sdft.errors import SettingError
from lightning_sdft.evaluation.preflight import judge_preflight
from lightning_sdft.modules import CausalLMModule
from lightning_sdft.settings.trainer import check_hardware, check_seed
from lightning_sdft.storage.masking import masked_text
from lightning_sdft.trust import split_trust, trusting

__all__ = ["SDFTCLI", "main"]

DESCRIPTION = (
    "Fine-tune language models on demonstrations without making them forget. Beside the subcommands below there are: "
    "{commands} (see `lightning-sdft export --help`). With any of them, `--trust mylab` lets configs name classes of "
    "your own package mylab."
)


class SDFTCLI(LightningCLI):
    """LightningCLI without its traps: for instance, a checkpoint never overrides what the user typed.

    Args:
        options: What LightningCLI takes.
        chosen: The subcommand, if it is known; the arguments of others are then not built, which takes a while.
    """

    def __init__(self, *options: Any, chosen: str | None = None, **further: Any) -> None:
        self.chosen = chosen
        super().__init__(*options, **further)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the given arguments, without Lightning's warning that the process has arguments, too."""
        given = isinstance(args, dict | Namespace)
        # parse_object takes a dictionary or a namespace, parse_args a list.
        self.config = parser.parse_object(args) if given else parser.parse_args(args)  # type: ignore[arg-type]
        settings = self.config[self.config.subcommand] if "subcommand" in self.config else self.config
        check_seed(settings.seed_everything)

    def before_instantiate_classes(self) -> None:
        """Train for one epoch if no setting says how long; Lightning would train for 1,000."""
        trainer = self._trainer_settings(self.config)
        if trainer.max_steps is None:  # as max_epochs may be, for no limit
            trainer.max_steps = -1
        if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
            trainer.max_epochs = 1

    def instantiate_classes(self) -> None:
        """Build trainer, module and data module.

        Raises:
            SettingError: If one of them refuses a setting.
        """
        try:
            super().instantiate_classes()
        except SettingError:
            raise
        except ValueError as error:
            raise SettingError(masked_text(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer without callbacks that Lightning would refuse: idle ones, and earlier ones of a class."""
        config = self._trainer_settings(self.config_init)
        given = config.get("callbacks") or []
        config["callbacks"] = _each_once([given] if isinstance(given, Callback) else given)  # Lightning takes one, too
        if self.subcommand == "memory":
            trainer = MemoryTrainer(**ELSEWHERE)
            trainer.asked = config
            return trainer
        idle: tuple[type[Callback], ...] = ()
        if config.get("logger") is False:
            idle += (LearningRateMonitor, DeviceStatsMonitor)
        if config.get("enable_progress_bar") is False:
            idle += (ProgressBar,)
        if config.get("enable_model_summary") is False:
            idle += (ModelSummary,)
        if config.get("enable_checkpointing") is False:
            idle += (ModelCheckpoint,)
        callbacks = [each for each in config["callbacks"] if not isinstance(each, idle)]
        # LastCheckpoints saves last, so that its checkpoint knows the best checkpoint of the same validation.
        config["callbacks"] = sorted(callbacks, key=lambda each: isinstance(each, LastCheckpoints))
        check_hardware(config.get("accelerator"), config.get("devices"))
        if isinstance(strategy := config.get("strategy"), str):
            check_strategy_name(strategy)
        try:
            return super().instantiate_trainer(**kwargs)
        # Such as a number of devices below 1, a package for a precision that is not installed, or an unknown profiler.
        except (TypeError, ModuleNotFoundError, MisconfigurationException) as error:
            raise SettingError(masked_text(f"Trainer: {error}")) from error

    def before_fit(self) -> None:
        """Settle the micro-batches, for the config that is saved, too; Lightning calls this when all is built."""
        settle_micro_batches(self.model, self.datamodule, self._trainer_settings(self.config_init))
        settings = self.config[self.subcommand].data.init_args
        if "micro_batch_size" in settings:
            settings.micro_batch_size = self.datamodule.micro_batch_size

    def fit(self, **arguments: Any) -> None:
        """Train, and say what was written and what comes next."""
        try:
            self.trainer.fit(**arguments)
        except SIGTERMException:
            if self.trainer.is_global_zero:
                after_signal(self.trainer, cast(CommandParser, self.parser).typed)
            raise
        if self.trainer.is_global_zero:
            after_fit(self.trainer)

    def preflight(self, **arguments: Any) -> None:
        """Check model and demonstrations, and say what comes next."""
        result = cast(PreflightTrainer, self.trainer).preflight(**arguments)
        typed, proposal = cast(CommandParser, self.parser).typed, proposal_file(result, arguments.get("proposal"))
        after_preflight(typed, arguments.get("output"), proposal, judge_preflight(result)[0] == "stop")

    def validate(self, verbose: bool = True, **arguments: Any) -> None:
        """Evaluate on the validation sets, and print a table that is easier to read than Lightning's.

        Raises:
            SettingError: If there is none.
        """
        self._check_any("validate", "validation", self.datamodule.splits.validation)
        self.trainer.validate(verbose=False, **arguments)
        if verbose:
            self._print_results(arguments)

    def test(self, verbose: bool = True, **arguments: Any) -> None:
        """Evaluate on the test sets, and print a table.

        Raises:
            SettingError: If there is none.
        """
        self._check_any("test", "test", self.datamodule.splits.test)
        self.trainer.test(verbose=False, **arguments)
        if verbose:
            self._print_results(arguments)
            self._say_next(arguments)

    def predict(self, **arguments: Any) -> None:
        """Answer the prompts of the test sets.

        Raises:
            SettingError: If there is none.
        """
        self._check_any("predict", "test", self.datamodule.splits.test)
        self.trainer.predict(**arguments)
        self._say_next(arguments)

    def _say_next(self, arguments: Mapping[str, Any]) -> None:
        if self.trainer.is_global_zero:
            after_evaluation(self.trainer, arguments.get("ckpt_path"))

    def _check_any(self, command: str, split: str, sets: Sequence[object]) -> None:
        if not sets:
            raise SettingError(
                f"there is nothing to {command}: {type(self.datamodule).__name__} has no {split} set here; give it "
                f"rows with data.{split}, or hold out a part of the training rows with data.{split}_share"
            )

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Let ``last`` be the newest whole checkpoint, refuse one that is broken, and let evaluations write beside it.

        Lightning would look for ``last`` in the folder of the new run, and write there.
        """
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        if arguments.get("ckpt_path") == "last":
            find = continue_run if subcommand == "fit" else last_checkpoint
            arguments["ckpt_path"] = find(self.trainer)
        elif not re.match("(best|hpc|registry.*)?$|.*://", arguments.get("ckpt_path") or ""):
            check_whole(arguments["ckpt_path"])
        if subcommand != "fit" and arguments.get("ckpt_path"):
            write_beside(self.trainer, arguments["ckpt_path"])
        return arguments

    def _trainer_settings(self, config: Namespace) -> Any:
        """The settings of the trainer, which stand below the subcommand if there is one."""
        return (config if self.subcommand is None else config[self.subcommand])["trainer"]

    def _print_results(self, arguments: Mapping[str, Any]) -> None:
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        if metrics and self.trainer.is_global_zero:
            Console().print(results_table(metrics, f"Evaluation of {arguments.get('ckpt_path') or self.model.model}"))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without the option to run code from a checkpoint, and our own that take the config of a run."""
        skipped = {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}
        return {**skipped, **{name: {"model", "datamodule"} for name in ("preflight", "memory", "inspect")}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """The parser of a subcommand, which is empty if another is chosen."""
        if self.chosen in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **options)
        return self.parser_class()

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is; Lightning would override it with the checkpoint's hyper-parameters."""


def _each_once(callbacks: Iterable[Callback]) -> list[Callback]:
    """Let a callback of this package take the place of an earlier one of its class, so that `callbacks+` can change it.

    Both would keep their state, log and write under the same names.
    """
    kept: dict[object, Callback] = {}
    for each in callbacks:
        ours = type(each).__module__.partition(".")[0] == __name__.partition(".")[0]
        place = type(each) if ours else id(each)
        if place in kept:
            rank_zero_info(
                f"trainer.callbacks has {type(each).__name__} twice: the later one takes the place of the earlier one, "
                "whose settings it does not take over."
            )
        kept[place] = each
    return list(kept.values())


def main(args: ArgsType = None, run: bool = True, trust: Sequence[str] = (), commands: Iterable[str] = ()) -> SDFTCLI:
    """Parse arguments, build trainer, module and data module, and run the subcommand.

    ``configs/base.yaml`` has the defaults for whatever ``args`` do not set.

    Args:
        args: Command line arguments as a list, or a config as a dictionary; by default those of the process.
        run: Whether to run the subcommand; if not, ``args`` must not name one, and the caller uses ``trainer``,
            ``model`` and ``datamodule`` of the result.
        trust: Packages of your own whose classes the config names, as with ``--trust`` on the command line.
        commands: Names of the commands beside Lightning's, for ``--help`` to list.

    Raises:
        SettingError: If a class is not from a trusted package, or refuses a setting.
    """
    if not isinstance(args, dict | Namespace):
        typed, args = split_trust(sys.argv[1:] if args is None else args)
        trust = [*trust, *typed]
    first = args.get("subcommand") if isinstance(args, dict | Namespace) else next(iter(args or ()), None)
    description = DESCRIPTION.format(commands=", ".join(commands))
    base = {"default_config_files": [escape(str(base_config()))]}  # jsonargparse expects patterns
    bases: dict[str, Any] = {name: dict(base) for name in SDFTCLI.subcommands()} if run else base
    with trusting(*trust):
        return SDFTCLI(
            CausalLMModule,
            DemonstrationDataModule,
            chosen=first if first in SDFTCLI.subcommands() else None,
            trainer_class=MemoryTrainer,
            parser_class=CommandParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # LightningCLI would build optimizers before the model has parameters
            seed_everything_default=42,
            save_config_callback=LogConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"version": version("lightning-sdft"), "description": description, **bases},
            args=args,
            run=run,
        )
