"""The parser of every command, which imports and allows only what is trusted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]  # which it exports by a list
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sdft.commands.config_files import stands_on
from lightning_sdft.errors import SettingError
from lightning_sdft.trust import check_typed, import_refused

__all__ = ["CommandParser"]


class ConfigFile(ActionConfigFile):
    """The option ``--config``, which reads before a file those that it stands on.

    jsonargparse would read them by themselves, so that ``callbacks+`` in them had nothing to be added to.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Put the settings of a file over those that are there."""
        for part in stands_on(Path(values)):
            super().__call__(parser, cfg, str(part), option_string)  # type: ignore[no-untyped-call]
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


class CommandParser(LightningArgumentParser):
    """Lightning's parser; see :mod:`lightning_sdft.trust` for what it refuses."""

    typed: Sequence[str] = ()

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument."""
        if options.get("action") is ActionConfigFile:
            options["action"] = ConfigFile
        return super().add_argument(*names, **options)

    # Passes on whatever else jsonargparse takes.
    def parse_args(self, args: Sequence[str] | None = None, *further: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parse a command line.

        Raises:
            SettingError: If a class is not of a trusted package, or a file asks for what only the command line may.
        """
        self.typed = sys.argv[1:] if args is None else args
        config: Namespace = super().parse_args(args, *further, **options)
        if self.exit_on_error:  # else it parses a part of the arguments for another parser
            check_typed(config, self.typed)
        return config

    def instantiate(self, *arguments: Any, **options: Any) -> Namespace:
        """Build the objects that a config names.

        Raises:
            SettingError: If one of them refuses a setting.
        """
        try:
            built: Namespace = super().instantiate(*arguments, **options)
        except ValueError as error:
            raise SettingError(str(error)) from error
        return built

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and end."""
        refused = import_refused(message, self.typed) if self.exit_on_error else None
        if refused is not None:
            raise refused from None
        super().error(message, ex)
