"""What jsonargparse says of wrong arguments, in one line: which setting, what is wrong, and what was meant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from importlib import import_module

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

import lightning_sdft
from lightning_sdft import grading
from lightning_sdft.errors import did_you_mean

__all__ = ["complaint"]

# jsonargparse raises errors that consist of text alone, so that is what there is to read.
KEY = re.compile(r'Parser key "([^"]+)"')
CLASS = re.compile(r"Problem with given class_path '([^']+)'")
UNKNOWN = re.compile(r"(?:Option|Key) '([\w.+]+)' is not (?:accepted|expected)|does not accept option '([\w.+]+)'")
UNRECOGNIZED = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
REQUIRED = re.compile(r"the following arguments are required: (.*)")
NO_COMMAND = re.compile(r'expected "subcommand" to be one of')
NO_VALUE = re.compile(r"argument (?:-\w/)?(\S+): expected one argument")
VALUE = re.compile(r"Expected a (?!<class 'NoneType)(.+?)\. Got value: (.*)")
GIVEN = re.compile(r"Given value: (.*)")
KINDS = re.compile(r"^ *- (?:Expected a|Not a valid (subclass) of) (.+?)(?:\. Got value: .*)?$", re.MULTILINE)
SUBTYPES = re.compile(r"Subtypes: \[<class '([\w.]+)'>")
LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
AROUND = re.compile(
    r"^[ -]*(Given value|Does not validate|Subtypes: |Errors:|Parser key |Problem with given|Expected a <class 'None)"
)
NOTHING = "null"
TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list, such as [a, b]",
    "dict": "settings, such as {name: value}",
    "Iterable": "a list, such as [a, b]",
    "NoneType": NOTHING,
    "timedelta": "a time, such as 00:12:00:00 for twelve hours",
}

LIGHTNINGS: tuple[type, ...] = (Callback, Logger, Profiler, Strategy)
"""What configs take from Lightning."""

NAMED = 12
"""How many classes or settings an error lists."""

TOP = ("model", "data", "trainer", "seed_everything", "ckpt_path", "config")
"""The settings of a run, in which all others are nested."""


def complaint(message: str, options: Iterable[str] = ()) -> str:
    """One line for a message of jsonargparse, of many lines.

    Args:
        message: The message.
        options: The options that the command has.
    """
    key = ".".join(KEY.findall(message))
    if found := UNKNOWN.search(message):
        return _unknown(key, found[1] or found[2], message)
    if found := UNRECOGNIZED.search(message):
        return _unrecognized(found[1].split()[0].split("=")[0], list(options))
    if found := NO_CLASS.search(message):
        return f"{key}: {found[1]} is no class that fits here{_classes(found[1], message)}"
    if found := REQUIRED.search(message):
        owner = _class_name(message)
        if owner:
            return f"{owner} needs {found[1]}: give --{key}.init_args.{found[1]}"
        names = ["--" + name.rpartition(".")[2] for name in found[1].split(", ")]
        are = "is" if len(names) == 1 else "are"
        return f"{', '.join(names)} {are} missing; give it on the command line, or in a file with --config"
    if NO_COMMAND.search(message):
        return "no command is given, such as fit; write it first (`lightning-sdft --help` lists them)"
    if found := NO_VALUE.search(message):
        return f"{found[1]} needs a value: {found[1]}=VALUE"
    if choices := [each.strip(" '\"") for text in LITERAL.findall(message) for each in text.split(",")]:
        values = [found for _, found in VALUE.findall(message)] or GIVEN.findall(message) or [""]
        value = values[0]
        return f"{key}={value} must be one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if found := VALUE.search(message):
        return f"{key}={found[2]} must be {_kind(found[1])}"
    if given := GIVEN.search(message):
        found_kinds = KINDS.findall(message[: given.start()])
        kinds = [f"a {name} (class_path: NAME)" if subclass else _kind(name) for subclass, name in found_kinds]
        if kinds := list(dict.fromkeys(each for each in kinds if each != NOTHING)):
            return f"{key}={given[1]} must be {' or '.join(kinds)}"
    return _telling(key, message)


def _telling(key: str, message: str) -> str:
    """The line of an unknown message that tells most: the last that is not about the types around it."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip() and not AROUND.match(line)]
    if len(lines) < 2 and "Parser key" not in message:
        return message.strip()
    return f"{f'{key}: ' if key else ''}{(lines or [message.strip()])[-1]} (--debug shows all of it)"


def _kind(name: str) -> str:
    """A type as a user would call it."""
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name)
    return TYPES.get(plain.partition("[")[0].rpartition(".")[2], plain)


def _unrecognized(name: str, options: list[str]) -> str:
    """That an argument is none of the options."""
    if not name.startswith("-"):
        option = "--config" if any("." in each for each in options) else next(iter(options), "--config")
        return f"{name} stands alone; write it behind an option, such as {option} {name}"
    if "." in name:
        return _unknown("", name.lstrip("-"), "")
    return f"there is no option {name}{did_you_mean(name, options)}"


def _classes(name: str, message: str) -> str:
    """Which class was meant, or else which ones there are."""
    fitting: set[str] = set()
    if found := SUBTYPES.findall(message):
        module, _, base = found[-1].rpartition(".")
        fitting = _names(getattr(import_module(module), base))
    ours = {*lightning_sdft.__all__, *grading.__all__}
    lightnings = {each for base in LIGHTNINGS for each in _names(base)}
    return did_you_mean(name, fitting) or did_you_mean(name, ours | lightnings, _few(fitting))


def _few(names: Iterable[str], otherwise: str = "") -> str:
    """What there is, if it is not too much to be read."""
    listed = sorted(names)
    return f"; there are {', '.join(listed)}" if 0 < len(listed) <= NAMED else otherwise


def _names(base: type) -> set[str]:
    """The names of the public classes that are made from a class, itself included if it can be built."""
    own = set() if inspect.isabstract(base) or base.__name__.startswith("_") else {base.__name__}
    made: list[type] = base.__subclasses__()
    return own.union(*map(_names, made))


def _unknown(key: str, name: str, message: str) -> str:
    """That a setting does not exist."""
    owner = CLASS.findall(message)
    *path, last = name.rstrip("+").split(".")
    if owner:
        last, where = (path or [last])[0], f"{_class_name(message)} has no setting {name}"
        names = _settings(owner[-1]) | ({"init_args"} if path else set())
    elif path and path[0] == "trainer":
        where, names = f"the trainer has no setting {last}", set(inspect.signature(Trainer.__init__).parameters)
    else:
        last, where, names = (path or [last])[0], f"a run has no setting {name}", set(TOP)
    prefix = f"{key}: " if key else ""
    shown = f"--{key}.help {_class_name(message)}" if key in ("model", "data") else "--help"
    return f"{prefix}{where}{did_you_mean(last, names, _few(names, f'; `lightning-sdft fit {shown}` lists them'))}"


def _class_name(message: str) -> str:
    owner = CLASS.findall(message)
    return owner[-1].rpartition(".")[2] if owner else ""


def _settings(path: str) -> set[str]:
    """The arguments of a class, and of the classes that it passes others on to."""
    module, _, name = path.rpartition(".")
    owner = getattr(import_module(module), name)
    return {each for base in owner.__mro__ for each in inspect.signature(base.__init__).parameters} - {
        "self",
        "args",
        "kwargs",
    }
