"""What was meant by a path where nothing is: a file or folder of the same kind beside it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

__all__ = ["neighbour_hint"]

CLOSE = 0.7
"""How alike two names must be, from 0 to 1."""


def neighbour_hint(path: Path, fits: Callable[[Path], bool]) -> str:
    """`; did you mean PATH?` if something of the right kind in the same folder has a similar name.

    Names are compared with and without their suffixes. The folders above do not count: they are the same.

    Args:
        path: Where nothing is.
        fits: Whether a file or folder is of the right kind.
    """
    try:
        others = [each for each in path.parent.iterdir() if each.name != path.name]
    except OSError:
        return ""
    alike = {each: max(_ratio(path.name, each.name), _ratio(path.stem, each.stem)) for each in others}
    close = sorted((each for each in others if alike[each] >= CLOSE), key=lambda each: (-alike[each], each.name))
    return next((f"; did you mean {each}?" for each in close if fits(each)), "")


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one.casefold(), other.casefold()).ratio()
