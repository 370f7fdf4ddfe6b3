"""The mutations, and how one is made in a tree of files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

__all__ = ["PACKAGE", "Mutation", "Place", "find", "mutated", "read_table"]

PACKAGE = "lightning_sdft"


class Mutation(NamedTuple):
    """A fault that tests should catch.

    A file is not named, so that moving code changes nothing here: the old lines are found wherever they are.
    """

    room: str
    """The part of the package that it is in."""
    fault: str
    """What is wrong then, in a few words; unique."""
    old: str
    """The lines that are replaced, without their indentation."""
    new: str
    """What takes their place."""
    tests: str
    """Modules of tests that should catch it, separated by blanks; ``tests.cli::test_name`` is one test of a module."""

    @property
    def arguments(self) -> list[str]:
        """The tests as pytest takes them."""
        parts = [each.partition("::") for each in self.tests.split()]
        return [f"{module.replace('.', '/')}.py{colons}{name}" for module, colons, name in parts]


class Place(NamedTuple):
    """Where the old lines are: a file, and the numbers of the first line and of the one behind the last, from 0."""

    file: Path
    start: int
    stop: int


def read_table() -> list[Mutation]:
    """All mutations, of every ``.toml`` file beside this one."""
    tables = [tomllib.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(__file__).parent.glob("*.toml"))]
    return [Mutation(room, **entry) for table in tables for room, entries in table.items() for entry in entries]


def find(mutation: Mutation, sources: dict[Path, str]) -> Place:
    """The only place that has the old lines.

    Raises:
        LookupError: If there is none, or there are several.
    """
    wanted = [line.strip() for line in mutation.old.strip("\n").split("\n")]
    places = []
    for file, source in sources.items():
        lines = [line.strip() for line in source.split("\n")]
        starts = [number for number, line in enumerate(lines) if line == wanted[0]]
        places += [
            Place(file, start, start + len(wanted)) for start in starts if lines[start : start + len(wanted)] == wanted
        ]
    if len(places) != 1:
        where = ", ".join(f"{place.file}:{place.start + 1}" for place in places) or "nowhere"
        raise LookupError(f"{mutation.room}: {mutation.fault}: the old lines must be in one place, they are {where}")
    return places[0]


def mutated(mutation: Mutation, source: str, place: Place) -> str:
    """The source with the new lines at a place, indented as the old ones are."""
    lines = source.split("\n")
    first = lines[place.start]
    new = indent(dedent(mutation.new).strip("\n"), first[: len(first) - len(first.lstrip())])
    return "\n".join([*lines[: place.start], new, *lines[place.stop :]])
