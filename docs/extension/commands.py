"""The commands: what their docstrings say, and their options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from docstring_parser import parse

from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands.fit import SDFTCLI
from lightning_sdft.commands.memory import MemoryTrainer

__all__ = ["pages"]

RUNS = """These take the config of a run: `--config NAME_OR_FILE`, which may be given several times, and any setting
behind it, such as `--model.init_args.learning_rate 5e-5`. The settings are the arguments of the classes in the
[API](api/index.md) and of Lightning's trainer.
"""


def pages() -> dict[str, str]:
    """The page, by the name of its file."""
    lines = ["# Commands\n", "`lightning-sdft COMMAND --help` prints the options of a command.\n"]
    lines += ["## Commands of a run\n", RUNS, "| command | |", "|---|---|"]
    for name in SDFTCLI.subcommands():
        lines.append(f"| `{name}` | {_first(getattr(MemoryTrainer, name))} |")
    lines += ["\n`--ckpt_path` takes a checkpoint, or `last`, the newest whole one of the run.\n"]
    for name, command in sorted(COMMANDS.items()):
        lines += _command(name, command)
    return {"commands.md": "\n".join(lines)}


def _first(function: Callable[..., Any]) -> str:
    """The first sentence of what a method of the trainer does."""
    text = _plain((inspect.getdoc(function) or "").split("\n\n")[0])
    return re.split(r"(?<=\.) ", text)[0]


def _command(name: str, command: Callable[..., Any]) -> list[str]:
    said = parse(inspect.getdoc(command) or "")
    lines = [f"## {name}\n", _plain(said.short_description or ""), "", _plain(said.long_description or ""), ""]
    described = {each.arg_name: each.description or "" for each in said.params}
    lines += ["| option | default | |", "|---|---|---|"]
    for each in inspect.signature(command).parameters.values():
        default = "" if each.default in (inspect.Parameter.empty, None) else f"`{each.default}`"
        required = "required" if each.default is inspect.Parameter.empty else default
        lines.append(f"| `--{each.name}` | {required} | {_plain(described[each.name])} |")
    refusals = [f"- {each.type_name}: {_plain(each.description or '')}" for each in said.raises]
    return [*lines, *(["\nIt is refused:\n", *refusals] if refusals else []), ""]


def _plain(text: str) -> str:
    """Markdown for the few marks that docstrings have, on one line a paragraph."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")).replace("|", "\\|")
