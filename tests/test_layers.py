"""Imports run downwards: the order of the rooms in CONTRIBUTING.md, by which nobody needs to know what stands above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_sdft"


def order() -> list[list[str]]:
    """The rooms from the top down, as CONTRIBUTING.md lists them; of several on a line, the left may use the right."""
    block = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return [line.split("#")[0].split() for line in block[1].strip().splitlines()]


def rooms() -> list[str]:
    return [room for line in order() for room in line]


def modules(root: Path) -> dict[str, Path]:
    """All modules below a package's folder by their dotted names."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that one imports, inside functions too, but not those that only a type checker reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = {
        id(inner)
        for node in ast.walk(tree)
        if name == PACKAGE and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in known or base in known:
                    yield full if full in known else base


def room(module: str) -> str:
    """The room of a module: the folder or the file right below the package."""
    return module.split(".")[1] if "." in module else "__init__"


def upward(root: Path, ranks: dict[str, int]) -> list[str]:
    """The imports that run upwards, as sentences."""
    known = modules(root)
    return [
        f"{name} imports {target}, which stands above it"
        for name, path in known.items()
        for target in imported(name, path, known)
        if target != root.name and ranks[room(target)] < ranks[room(name)]
    ]


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, or none."""
    known = modules(root)
    graph = {
        name: {target for target in imported(name, path, known) if target not in (name, root.name)}
        for name, path in known.items()
        if name != root.name
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture
def ranks() -> dict[str, int]:
    return {name: index for index, name in enumerate(["__init__", "__main__", *rooms()])}


def test_imports_run_downwards(ranks: dict[str, int]) -> None:
    assert upward(ROOT / PACKAGE, ranks) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(ROOT / PACKAGE) == []


def test_every_room_has_its_place_and_few_are_loose_modules(ranks: dict[str, int]) -> None:
    there = {
        path.stem for path in (ROOT / PACKAGE).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there == set(ranks)
    assert len([name for name in there if (ROOT / PACKAGE / f"{name}.py").exists()]) <= 6


@pytest.mark.parametrize(
    ("upper", "lower", "rising", "turning"),
    [
        ("", "def f():\n    from lightning_sdft.high import x\n", 1, []),
        ("", "from ..high import x\n", 1, []),
        ("", "import lightning_sdft.high\n", 1, []),
        ("from lightning_sdft.low import y\n", "", 0, []),
        ("from lightning_sdft.low.b import y\n", "from lightning_sdft import high\n", 1, ["high", "low.b"]),
    ],
)
def test_what_runs_upwards_or_in_a_circle_is_found(
    tmp_path: Path, upper: str, lower: str, rising: int, turning: list[str]
) -> None:
    root = tmp_path / PACKAGE
    (root / "low").mkdir(parents=True)
    for name, text in {"__init__": "", "high": upper, "low/__init__": "", "low/b": lower}.items():
        (root / f"{name}.py").write_text(text, encoding="utf-8")

    assert len(upward(root, {"__init__": 0, "high": 1, "low": 2})) == rising
    assert {each.removeprefix(f"{PACKAGE}.") for each in circle(root)} == set(turning)
