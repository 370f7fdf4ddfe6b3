"""Protection against config files that would run foreign code: what they may name, and what needs the command line.

When a config names a class, its module is imported, and importing runs the module's code before anything can check
that the class is, say, a callback. So configs and arguments may name only classes of the packages below, and of
packages that the command line trusts (``--trust mylab``). jsonargparse checks a path before it imports it, and then
checks where the object found there was defined, so that ``lightning_sdft.cli.sys.exit`` does not count as ours.
Settings that run foreign code take effect only if they are given on the command line.

Not prevented: a config says which files are read and written, which server is contacted and, by the name of an
environment variable, with which key. So read a config from a stranger before you run it. As in any Python program,
modules in the folders of ``PYTHONPATH``, and with ``python -m`` in the current folder, can replace installed packages.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings  # there is no public way to restore settings

from lightning_sdft.errors import SettingError

__all__ = ["check_typed", "import_refused", "split_trust", "trusted", "trusted_function", "trusting"]

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
"""Packages whose classes any config may name: what a run needs, but not all of torch, parts of which run programs."""

RUNS_CODE = {
    "allow_code_execution": "runs what a model writes",
    "include_path": "may run Python files that lie beside the task files",
    "trust_remote_code": "runs code that comes with a model",
}
"""Settings that run code from outside the installed packages, and what each of them does."""

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
KEY = re.compile(r'Parser key "([^"]+)"')

LARGEST_CONFIG = 2**20
"""Size in bytes; larger files among the arguments are taken for data, not for configs."""

_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Inside this context, configs can import classes only from :data:`PACKAGES` and from trusted packages.

    Args:
        names: Packages to trust in addition to those of an enclosing ``with``, or settings of :data:`RUNS_CODE` that
            config files may use.

    Raises:
        SettingError: If a name is not that of a package, or if a config names a class from anywhere else.
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
    """Everything trusted at present in addition to :data:`PACKAGES`, to pass on to another process."""
    return sorted(_trusted.get())


def trusted_function(path: str, setting: str) -> Callable[..., Any]:
    """Import a function of a trusted package.

    Args:
        path: Its dotted path, such as ``mylab.grading.is_right``.
        setting: The setting that names it, for errors.

    Raises:
        SettingError: If its package is not trusted, or there is no such function in it.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise SettingError(f"{setting}={path} is no dotted path; give one such as mylab.grading.is_right")
    if not _is_trusted(module):
        package = path.partition(".")[0]
        raise SettingError(
            f"{setting} names {path}, and importing it would run its code. If you trust it, add --trust {package} to "
            f"the command line (in Python: with lightning_sdft.trust.trusting({package!r}))"
        )
    try:
        function = getattr(import_module(module), name)
    except ImportError as error:
        raise SettingError(
            f"{setting}={path} cannot be imported ({error}); install it, or add its folder to PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise SettingError(f"{setting}={path}: there is no {name} in {module}; correct the name") from error
    if not callable(function) or not _is_trusted(getattr(function, "__module__", None) or ""):
        raise SettingError(f"{setting}={path} is no function of {module}; name one that is defined there")
    return function  # type: ignore[no-any-return]


def _is_trusted(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _trusted.get())


def split_trust(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into the names given to ``--trust`` and all other arguments.

    Raises:
        SettingError: If no name follows ``--trust``.

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
    """Check that settings that run code are given on the command line.

    Args:
        config: The merged config of files and arguments.
        arguments: The command line.

    Raises:
        SettingError: If a setting that runs code comes from a file; the message says how to allow it.
    """
    typed = {_plain(argument[2:].partition("=")[0]) for argument in arguments if argument.startswith("--")}
    for key, value in _settings(config):
        name = key.rpartition(".")[2]
        if name in RUNS_CODE and value and name not in _trusted.get() and _plain(key) not in typed:
            raise SettingError(
                f"{_where(name, arguments)}: {key}={value} {RUNS_CODE[name]}, and a file may not turn that on; if you "
                f"want it, add --{key}=... or --trust {name} to the command line"
            )


def import_refused(message: str, arguments: Sequence[str]) -> SettingError | None:
    """Turn jsonargparse's refusal of an import into an error that says what to do; ``None`` for any other message.

    Args:
        message: The error message of jsonargparse.
        arguments: The command line.
    """
    denied = DENIED.search(message)
    if denied is None:
        return None
    key, path = ".".join(KEY.findall(message[: denied.start()])), denied[1]
    package = path.partition(".")[0]
    return SettingError(
        f"{_where(path, arguments)}: {key} names {path}, and importing it would run its code; configs may name only "
        "classes of this package, Lightning, torchmetrics and parts of torch. If you trust it, add --trust "
        f"{package} to the command line (in Python: with lightning_sdft.trust.trusting({package!r}))"
    )


def _plain(key: str) -> str:
    """A key as users write it, without parts that only describe how the config is nested."""
    return ".".join(part for part in key.rstrip("+").split(".") if part not in ("init_args", "dict_kwargs"))


def _settings(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All settings with their keys, which leave out indices of list items and the name of the subcommand."""
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
    """Where the text appears, for error messages: the last such file among the arguments, or the command line."""
    for argument in reversed(arguments):
        path = argument.partition("=")[2] or argument
        if os.path.isfile(path) and os.path.getsize(path) < LARGEST_CONFIG:
            if text in Path(path).read_text(encoding="utf-8", errors="replace"):
                return path
        elif text in argument:
            return "the command line"
    return "the config"
