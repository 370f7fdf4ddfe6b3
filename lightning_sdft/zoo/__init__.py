"""Models small enough to ship with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PREFIX", "folder"]

PREFIX = "zoo/"


def folder(name: str) -> Path:
    """The Hugging Face folder of a model of the zoo.

    Args:
        name: Its name with the prefix: ``zoo/laptop``.

    Raises:
        ValueError: If there is no such model.
    """
    root = Path(__file__).parent
    path = root / name.removeprefix(PREFIX)
    models = sorted(f"{PREFIX}{config.parent.name}" for config in root.glob("*/config.json"))
    if f"{PREFIX}{path.name}" not in models:
        raise ValueError(f"there is no model {name!r} in the zoo; there are {models}")
    return path
