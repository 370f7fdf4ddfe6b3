"""Completion of the command line in bash and zsh, fast enough to be asked at each press of the tab key."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from lightning_sdft.commands.config_files import config_names
from lightning_sdft.commands.short_help import RUNS
from lightning_sdft.commands.signatures import classes, commands, described, trainer_settings

__all__ = ["SCRIPTS", "candidates"]

BASH = "complete -o bashdefault -o default -C 'lightning-sdft --complete' lightning-sdft"
SCRIPTS = {"bash": BASH, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH}"}
"""What a shell is to read: ``eval "$(lightning-sdft --completion bash)"``."""

ROOMS = {"--model": ("modules", "Module"), "--data": ("data", "DataModule")}

DEFAULTS = {"--model": "SDFTModule", "--data": "JsonDataModule"}
"""The class whose settings are offered if none is typed."""


def candidates(line: str) -> list[str]:
    """What may stand at the end of a line.

    Args:
        line: What is typed up to now, ``lightning-sdft`` included; its last word is what is to be completed.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # an open quotation mark
        return []
    if line.endswith((" ", "\t")):
        words.append("")
    *before, word = words[1:] or [""]
    return sorted({each for each in _possible(before, word) if each.startswith(word) and each != word})


def _possible(before: list[str], word: str) -> Iterable[str]:
    if not before:
        return [*RUNS, *commands(), "--help", "--version", "--completion"]
    command, last = before[0], before[-1]
    if last in ("-c", "--config"):
        return [*config_names(), *(name.rpartition("/")[2] for name in config_names()), *_files(word)]
    if command in RUNS and last in ROOMS:
        return classes(*ROOMS[last])
    if not word.startswith("-"):
        return []
    if command not in RUNS:
        modules = commands()
        named = described(modules[command], command).options if command in modules else []
        return ["--config", "--help", *(f"--{each.name}" for each in named)]
    options = ["--config", "--model", "--data", "--ckpt_path", "--print_config", "--help", "--trust", "--debug"]
    return [
        *options,
        *(f"--trainer.{name}" for name in trainer_settings()),
        *(f"{option}.{name}" for option in ROOMS for name in _settings(option, before)),
    ]


def _settings(option: str, before: list[str]) -> list[str]:
    """The settings of the class that a line names, or else of the one that most runs use."""
    known = classes(*ROOMS[option])
    typed = [*(word for place, word in enumerate(before[1:]) if before[place] == option), DEFAULTS[option]]
    name = next((each for each in typed if each in known), None)
    return [] if name is None else [each.name for each in described(known[name], name).options if each.name != "kwargs"]


def _files(word: str) -> Iterable[str]:
    """The config files in the folder that a word names, and the folders in it."""
    head, slash, _ = word.rpartition("/")
    folder = Path(f"{head}{slash}")
    if not folder.is_dir():
        return []
    names = [f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir()]
    return [f"{head}{slash}{name}" for name in names if name.endswith((".yaml", ".yml", "/"))]
