"""What jsonargparse says of wrong arguments, in one line: which setting, what is wrong, and what was meant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

from lightning.pytorch import Trainer

import lightning_sdft
from lightning_sdft import grading

__all__ = ["complaint", "did_you_mean"]

KEY = re.compile(r'Parser key "([^"]+)"')
CLASS = re.compile(r"Problem with given class_path '([^']+)'")
UNKNOWN = re.compile(r"Option '([\w.+]+)' is not accepted|Subcommand '\w+' does not accept option '([\w.+]+)'")
UNRECOGNIZED = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
REQUIRED = re.compile(r"the following arguments are required: (.*)")
VALUE = re.compile(r"Expected a (.+?)\. Got value: (.*)")
GIVEN = re.compile(r"Given value: (.*)")
LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
TYPES = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text"}

CLASSES = (*lightning_sdft.__all__, *grading.__all__)

TOP = ("model", "data", "trainer", "seed_everything", "ckpt_path", "config", "optimizer", "lr_scheduler")
"""The settings of a run, in which all others are nested."""


def complaint(message: str, options: Iterable[str] = ()) -> str:
    """One line for a message of jsonargparse, of many lines; the message itself if it is of none of the known kinds.

    Args:
        message: The message.
        options: The options that the command has.
    """
    key = ".".join(KEY.findall(message))
    if found := UNKNOWN.search(message):
        return _unknown(key, found[1] or found[2], message)
    if found := UNRECOGNIZED.search(message):
        name = found[1].split()[0].split("=")[0]
        if "." in name:
            return _unknown("", name.lstrip("-"), message)
        return f"there is no option {name}{did_you_mean(name, options)}"
    if found := NO_CLASS.search(message):
        return f"{key}: {found[1]} is no class that fits here{did_you_mean(found[1], CLASSES)}"
    if found := REQUIRED.search(message):
        owner = _class_name(message)
        if owner:
            return f"{owner} needs {found[1]}: give --{key}.init_args.{found[1]}"
        names = ", ".join("--" + name.rpartition(".")[2] for name in found[1].split(", "))
        return f"{names} is missing; give it on the command line, or in a file with --config"
    if choices := [each.strip(" '\"") for text in LITERAL.findall(message) for each in text.split(",")]:
        given = (VALUE.findall(message) or [("", (GIVEN.findall(message) or [""])[-1])])[-1][1]
        return f"{key}={given} must be one of {', '.join(choices)}{did_you_mean(given, choices)}"
    if found := VALUE.search(message):
        kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", found[1])
        return f"{key}={found[2]} must be {TYPES.get(kind, kind)}"
    return message


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` if one of the names is close to a name, else nothing."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _unknown(key: str, name: str, message: str) -> str:
    """That a setting does not exist."""
    owner = CLASS.findall(message)
    *path, last = name.rstrip("+").split(".")
    if owner:
        where, names = f"{_class_name(message)} has no setting {name}", _settings(owner[-1])
    elif path and path[0] == "trainer":
        where, names = f"the trainer has no setting {last}", set(inspect.signature(Trainer.__init__).parameters)
    else:
        last, where, names = (path or [last])[0], f"a run has no setting {name}", set(TOP)
    prefix = f"{key}: " if key else ""
    return f"{prefix}{where}{did_you_mean(last, names)}"


def _class_name(message: str) -> str:
    owner = CLASS.findall(message)
    return owner[-1].rpartition(".")[2] if owner else ""


def _settings(path: str) -> set[str]:
    """The arguments of a class, and of the classes that it passes others on to."""
    module, _, name = path.rpartition(".")
    owner = getattr(import_module(module), name)
    return {each for base in owner.__mro__ for each in inspect.signature(base.__init__).parameters} - {"self", "kwargs"}
