"""What autodoc reads of types and docstrings: types without the ranges in them, and ranges as words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, get_type_hints

from sphinx.application import Sphinx

import lightning_sdft
from lightning_sdft import errors
from lightning_sdft.settings import ranges

__all__ = ["move_ranges", "say_ranges"]

RANGES: dict[Any, Mapping[str, object]] = {}
"""The ranges of the arguments of the public classes and functions."""


def move_ranges(app: Sphinx) -> None:
    """Take the ranges out of the types of public classes and functions, which autodoc would write out as code.

    Args:
        app: Sphinx.
    """
    public = [getattr(lightning_sdft, name) for name in lightning_sdft.__all__]
    classes = {base for each in filter(inspect.isclass, public) for base in inspect.getmro(each) if _is_ours(base)}
    functions = list(filter(inspect.isfunction, public))
    RANGES.update({each: ranges(each) for each in (*classes, *functions)})  # all of them before any type changes
    for function in functions:
        function.__annotations__ = _plain(function)
    for each in classes:
        own = inspect.get_annotations(each)
        each.__annotations__ = {name: hint for name, hint in _plain(each).items() if name in own}
        for function in vars(each).values():
            if inspect.isfunction(function):
                function.__annotations__ = _plain(function)


def say_ranges(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Begin the description of an argument with its range.

    Args:
        app: Sphinx.
        what: The kind of what is described, such as ``class``.
        name: Its name.
        found: The object.
        options: Those of the directive.
        lines: The docstring, which is changed.
    """
    if what == "property":  # the part before a colon would be taken for a type
        lines[:1] = [lines[0].replace(": ", " -- ", 1)]
    for argument, allowed in RANGES.get(found, {}).items() if what in ("class", "function") else ():
        begin = re.compile(rf"^(\s+{argument}: )")
        lines[:] = [begin.sub(rf"\1({allowed}) ", line) for line in lines]


def _is_ours(found: type) -> bool:
    return found.__module__.startswith("lightning_sdft") and not issubclass(found, errors.Refusal)


def _plain(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner)
    except NameError:  # a name that only type checkers import
        return dict(owner.__annotations__)
