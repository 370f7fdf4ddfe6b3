"""The parser of every command; it imports and allows only trusted classes."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]  # public, and not in its list
from lightning.pytorch.cli import LightningArgumentParser

from lightning_sdft.commands.complaints import complaint
from lightning_sdft.commands.config_files import check_yaml, config_file, included_files
from lightning_sdft.errors import SettingError
from lightning_sdft.settings import ranges
from lightning_sdft.storage.masking import masked, masked_text
from lightning_sdft.trust import check_typed, import_refused

__all__ = ["CommandParser"]


class ConfigFile(ActionConfigFile):
    """The option ``--config``, which reads the files that a file includes before the file itself.

    jsonargparse would read each included file by itself, so that ``callbacks+`` in it had nothing to be added to.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Override the present settings with those of a file, given by its path or by its name in the package."""
        file = config_file(values)
        for part in (*included_files(file), file):
            check_yaml(part)
            super().__call__(parser, cfg, str(part), option_string)  # type: ignore[no-untyped-call]


class CommandParser(LightningArgumentParser):
    """Lightning's parser; see :mod:`lightning_sdft.trust` for what it refuses."""

    typed: Sequence[str] = ()
    options: Sequence[str] = ()
    """The options that come from signatures."""

    def __init__(self, *names: Any, **options: Any) -> None:
        # argparse would take --trainer.max_step=3 for max_steps.
        super().__init__(*names, **{"allow_abbrev": False, **options})

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument."""
        if options.get("action") is ActionConfigFile:
            options["action"] = ConfigFile
        return super().add_argument(*names, **options)

    def _add_signature_parameter(self, container: Any, nested_key: str | None, param: Any, *rest: Any, **further: Any):  # type: ignore[no-untyped-def]
        """Add the argument of a class or function, with its range in its help."""
        self.options = [*self.options, f"--{nested_key}.{param.name}" if nested_key else f"--{param.name}"]
        described = callable(param.component)  # else it is a parameter that is itself an object of a class
        allowed = ranges(param.component).get(param.name) if described else None
        if allowed is not None:
            param = replace(param, doc=f"{(param.doc or '').rstrip('.')} ({allowed}).")
        return super()._add_signature_parameter(container, nested_key, param, *rest, **further)

    # Passes on whatever else jsonargparse takes.
    def parse_args(self, args: Sequence[str] | None = None, *further: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """Parse a command line.

        Raises:
            SettingError: If a class is not from a trusted package, or a file sets what only the command line may set.
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
            raise SettingError(masked_text(_said(str(error)))) from error
        return built

    def dump(self, namespace: Namespace, *arguments: Any, **options: Any) -> str:
        """A config as text for ``--print_config``, files and TensorBoard, with secrets masked.

        It has been validated when it was parsed; to do so again takes longer than all else here.
        """
        if "skip_none" in options:  # as Lightning still calls it
            options["skip_unset"] = options.pop("skip_none")
        text: str = super().dump(masked(namespace), *arguments, **{"skip_validation": True, **options})
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse arguments in one line.

        Raises:
            SettingError: If it is the parser of the whole command line, not that of a part of it.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise import_refused(message, self.typed) or SettingError(masked_text(complaint(message, self.options))) from ex


def _said(message: str) -> str:
    """What a class said of its settings, without the types and values that jsonargparse puts around it."""
    found = re.findall(
        r"^  - (?!Expected a |Not a valid )(.*?)\n(?=  - |Given value type:)", message, re.MULTILINE | re.DOTALL
    )
    return str(found[0]) if len(found) == 1 else message
