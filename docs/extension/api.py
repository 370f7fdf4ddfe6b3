"""A page for each room of the package, of what can be imported from ``lightning_sdft``."""

from __future__ import annotations

import inspect
from typing import Any

import lightning_sdft

__all__ = ["pages"]

TITLES = {
    "modules": "Modules: the methods",
    "data": "Data modules",
    "teacher": "Teachers",
    "losses": "Divergences, targets and weights",
    "rollout": "Rollout engines",
    "callbacks": "Callbacks",
    "grading": "Graders",
    "chat": "Chat models",
    "inspection": "Looking inside",
    "policy": "Policy and adapters",
    "records": "Records",
    "checkpoint": "Checkpoints",
    "errors": "",
}


def pages() -> dict[str, str]:
    """The pages, by the names of their files."""
    rooms: dict[str, list[str]] = {room: [] for room in TITLES}
    for name in lightning_sdft.__all__:
        rooms.setdefault(getattr(lightning_sdft, name).__module__.split(".")[1], []).append(name)
    rooms.pop("errors")  # have a page of their own
    found = {room: _page(room, names) for room, names in rooms.items() if names}
    return {f"api/{room}.md": text for room, text in found.items()} | {"api/index.md": _index(found)}


def _page(room: str, names: list[str]) -> str:
    first = f"# {TITLES.get(room, room.capitalize())}\n"
    return "\n".join([first, "```{eval-rst}", ".. currentmodule:: lightning_sdft\n", *map(_entry, names), "```\n"])


def _entry(name: str) -> str:
    found: Any = getattr(lightning_sdft, name)
    if inspect.isfunction(found):
        return f".. autofunction:: {name}\n"
    return f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n"


def _index(rooms: dict[str, str]) -> str:
    text = "What `from lightning_sdft import ...` gives; other names may change without notice."
    return "\n".join(["# API\n", text, "\n```{toctree}", ":maxdepth: 1\n", *rooms, "```\n"])
