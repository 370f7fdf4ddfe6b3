"""What autodoc reads of types and docstrings: types without the ranges in them, and ranges as words."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_type_hints

from sphinx.application import Sphinx

from lightning_sdft.settings import ranges

__all__ = ["say_ranges", "without_ranges"]


def without_ranges(app: Sphinx, found: Any, bound: bool) -> None:
    """Let an argument with a range have the type of its numbers.

    Args:
        app: Sphinx.
        found: The function whose signature autodoc is about to read.
        bound: Whether it is a method of an object.
    """
    function = inspect.unwrap(found)
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # a name that only type checkers import, or no function
        return
    if hints and inspect.isfunction(function):
        function.__annotations__ = hints


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
    if what != "class":
        return
    for argument, allowed in ranges(found).items():
        begin = re.compile(rf"^(\s+{argument}: )")
        lines[:] = [begin.sub(rf"\1({allowed}) ", line) for line in lines]
