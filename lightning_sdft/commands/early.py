"""What can be said before torch, Lightning and transformers are imported, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from lightning_sdft.commands.config_files import check_yaml, config_file, included_files
from lightning_sdft.commands.short_help import RUNS
from lightning_sdft.commands.signatures import commands
from lightning_sdft.errors import SettingError, did_you_mean

__all__ = ["check_command", "check_configs", "first_line"]

ELSEWHERE = {"train": "fit", "eval": "validate", "evaluate": "validate", "generate": "predict", "merge": "export"}
"""Our commands by the names that other programs have for them."""

CONFIGS = ("-c", "--config")

TEXTS = ("--print_config", "--help", "-h", "--version")
"""Options that ask for a text, which is to be nothing else."""

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables that launchers give processes, 0 for the first."""


def check_command(first: Sequence[str]) -> None:
    """Refuse a command that there is not.

    Args:
        first: The first argument, if there is one.

    Raises:
        SettingError: If it is neither an option nor a command.
    """
    names = [*RUNS, *commands()]
    for name in first:
        if not name.startswith("-") and name not in names:
            hint = f"; did you mean {ELSEWHERE[name]}?" if name in ELSEWHERE else did_you_mean(name, names)
            raise SettingError(f"there is no command {name}{hint}; there are {', '.join(names)}")


def check_configs(arguments: Sequence[str]) -> None:
    """Refuse configs that are not there, or are no YAML.

    Args:
        arguments: What was typed behind ``lightning-sdft``.

    Raises:
        SettingError: If there is one.
    """
    for name in _configs(arguments):
        file = config_file(name)
        for part in (*included_files(file), file):
            check_yaml(part)


def first_line(arguments: Sequence[str]) -> str | None:
    """What a command says at once; nothing if it is asked for a text alone, or is not the first process of several.

    Args:
        arguments: What was typed behind ``lightning-sdft``.
    """
    command = next(iter(arguments), "-")
    others = any(os.environ.get(rank, "0") != "0" for rank in RANKS)
    asked = any(each.split("=")[0] in TEXTS or each.split("=")[0].endswith(".help") for each in arguments)
    if command.startswith("-") or others or asked:
        return None
    return f"{' '.join([command, *_configs(arguments)])}: loading torch, Lightning and transformers"


def _configs(arguments: Sequence[str]) -> Iterator[str]:
    """The values of ``--config``."""
    for place, each in enumerate(arguments):
        option, separator, value = each.partition("=")
        if option in CONFIGS and separator:
            yield value
        elif option in CONFIGS and place + 1 < len(arguments):
            yield arguments[place + 1]
