"""What a config file may name, and what only the command line may ask for.

To name a class in a config is to import its module, and that runs the module before anybody can ask whether the class
is a callback at all. So configs and arguments name only classes of the packages below, and of those that the command
line trusts (``--trust mylab``). jsonargparse checks a path before it imports it, and what it finds there by where that
was defined, so that ``lightning_sdft.cli.sys.exit`` is not one of ours. Settings that run code which somebody else
wrote do so only if the command line has them.

Not prevented: a config says where files are read and written, which server is asked and, by the name of an environment
variable, with which key. Read a stranger's config before you run it. Python modules in the folders of ``PYTHONPATH``,
and with ``python -m`` in the current one, can stand in the place of installed packages, as in any Python program.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no public way to take a policy back

from lightning_sdft.errors import SettingError

__all__ = ["check_typed", "import_refused", "split_trust", "trusted", "trusting"]

PACKAGES = (
    "lightning.fabric",
    "lightning.pytorch",
    "lightning_sdft",
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.fsdp",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)
"""Packages whose classes any config may name: what a run is made of, and not all of torch, which can run programs."""

RUNS_CODE = {
    "allow_code_execution": "runs what a model writes",
    "include_path": "may run Python files that lie beside the task files",
    "trust_remote_code": "runs code that comes with a model",
}
"""Settings that run code which is not of an installed package, and what they do."""

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
KEY = re.compile(r'Parser key "([^"]+)"')

LARGEST_CONFIG = 2**20
"""Bytes; arguments that name larger files name data."""

_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """While this lasts, only classes of :data:`PACKAGES`, and of packages that are trusted, are imported by their name.

    Args:
        names: Packages that are trusted beside those of a ``with`` around this one, or settings of :data:`RUNS_CODE`
            that config files may use.

    Raises:
        SettingError: If a name is none of a package, or if something else was to be imported.
    """
    settings = dict(parsing_settings)
    before = _trusted.set(_trusted.get().union(names))
    try:
        try:
            set_parsing_settings(
                import_path_denylist=["*"],
                import_path_allowlist=[*PACKAGES, *_trusted.get()],
                instantiate_subclass_spec_in_any=False,
            )
        except ValueError as error:
            raise SettingError(f"cannot trust {', '.join(names)}: {error} Name packages, such as mylab") from error
        yield
    except ArgumentError as error:
        refused = import_refused(str(error), ())
        if refused is None:
            raise
        raise refused from None
    finally:
        parsing_settings.update(settings)
        _trusted.reset(before)


def trusted() -> list[str]:
    """What is trusted at present beside :data:`PACKAGES`, for another process to trust as well."""
    return sorted(_trusted.get())


def split_trust(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is trusted by ``--trust``, and the other arguments.

    Raises:
        SettingError: If nothing follows ``--trust``.

    Example:
        >>> split_trust(["fit", "--trust", "mylab,other", "--trust=third", "--config", "a.yaml"])
        (['mylab', 'other', 'third'], ['fit', '--config', 'a.yaml'])
    """
    names: list[str] = []
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        option, equals, value = argument.partition("=")
        if option != "--trust":
            rest.append(argument)
            continue
        value = value if equals else next(given, "")
        if not value or value.startswith("-"):
            raise SettingError("--trust needs the name of a package, such as --trust mylab")
        names += value.split(",")
    return names, rest


def check_typed(config: Namespace, arguments: Sequence[str]) -> None:
    """Refuse settings that run code, unless the command line has them.

    Args:
        config: What files and arguments say together.
        arguments: The command line.

    Raises:
        SettingError: If a setting that runs code comes from a file; the message says how to allow it.
    """
    typed = {_plain(argument[2:].partition("=")[0]) for argument in arguments if argument.startswith("--")}
    for key, value in _settings(config):
        name = key.rpartition(".")[2]
        if name in RUNS_CODE and value and name not in _trusted.get() and _plain(key) not in typed:
            raise SettingError(
                f"{_where(name, arguments)}: {key}={value} {RUNS_CODE[name]}, and a file cannot ask for that; if you "
                f"want it, type the setting (--{key}=...) or --trust {name}"
            )


def import_refused(message: str, arguments: Sequence[str]) -> SettingError | None:
    """What is to be said where jsonargparse refused to import something; ``None`` if it complains of something else.

    Args:
        message: What jsonargparse says.
        arguments: The command line.
    """
    denied = DENIED.search(message)
    if denied is None:
        return None
    key, path = ".".join(KEY.findall(message[: denied.start()])), denied[1]
    package = path.partition(".")[0]
    return SettingError(
        f"{_where(path, arguments)}: {key} names {path}, and to import it is to run it; configs may name what is in "
        f"this package, Lightning, torchmetrics and parts of torch. If you know what it does, type --trust {package} "
        f"(in Python: with lightning_sdft.trust.trusting({package!r}))"
    )


def _plain(key: str) -> str:
    """A key as one would write it, without what only says how a config is nested."""
    return ".".join(part for part in key.rstrip("+").split(".") if part not in ("init_args", "dict_kwargs"))


def _settings(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All settings by their keys, without the numbers of list items and the name of the subcommand."""
    if isinstance(value, Namespace | Mapping):
        nested = dict(vars(value) if isinstance(value, Namespace) else value)
        subcommand = nested.get("subcommand")
        for name, each in nested.items():
            path = "" if name == subcommand and not key else f"{key}.{name}" if key else str(name)
            yield from _settings(each, path)
            yield path, each
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _settings(each, key)


def _where(text: str, arguments: Sequence[str]) -> str:
    """The last file among the arguments that has a text, or else the command line."""
    for argument in reversed(arguments):
        path = argument.partition("=")[2] or argument
        if os.path.isfile(path) and os.path.getsize(path) < LARGEST_CONFIG:
            if text in Path(path).read_text(encoding="utf-8", errors="replace"):
                return path
        elif text in argument:
            return "the command line"
    return "the config"
