"""What functions and classes take, read from their source: importing them would take seconds, for torch comes along."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

__all__ = ["Described", "Option", "classes", "commands", "described", "trainer_settings"]

PACKAGE = Path(__file__).parents[1]

ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
"""An argument in a docstring."""


@dataclass(frozen=True)
class Option:
    """An argument of a function or class.

    Args:
        name: Its name.
        kind: Its type, as the source has it.
        default: Its default as the source has it; ``None`` if it must be given.
        text: What the docstring says of it.
    """

    name: str
    kind: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Described:
    """A function, method or class.

    Args:
        summary: The first paragraph of its docstring.
        options: Its arguments.
    """

    summary: str
    options: list[Option]


def commands() -> dict[str, str]:
    """The commands that are plain functions, with their modules, by whose names they are called."""
    source = (PACKAGE / "cli.py").read_text(encoding="utf-8")
    found = re.findall(rf"^from ({PACKAGE.name}\.[\w.]+) import (\w+)$", source, re.MULTILINE)
    return {name: module for module, name in found if module.endswith(f".{name}")}


def classes(room: str, ending: str) -> dict[str, str]:
    """The public classes of a room whose names end so, each with the file that has it; base classes are left out."""
    home = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in home.body if isinstance(node, ast.ImportFrom) and node.module]
    found = {alias.name: node.module for node in imports for alias in node.names if alias.name.endswith(ending)}
    return {name: str(module) for name, module in found.items() if not _is_abstract(str(module), name, found)}


def described(module: str, *names: str) -> Described:
    """What a function, a method or a class of this package takes.

    Args:
        module: The module.
        names: Its name, behind the name of its class if it is a method. A class takes what its bases take, too.
    """
    node: ast.AST = _tree(module)
    for name in names:
        node = _member(node, name)
    if isinstance(node, ast.ClassDef):
        return Described(_summary(node), list(_settings(module, node)))
    assert isinstance(node, ast.FunctionDef)
    options = _options(node, ast.get_docstring(node) or "")
    return Described(_summary(node), [replace(each, kind=_choices(module, each.kind)) for each in options])


def trainer_settings() -> list[str]:
    """The settings of Lightning's trainer."""
    spec = find_spec("lightning")
    if spec is None or spec.origin is None:
        return []
    tree = ast.parse((Path(spec.origin).parent / "pytorch" / "trainer" / "trainer.py").read_text(encoding="utf-8"))
    return [each.name for each in _options(_member(_member(tree, "Trainer"), "__init__"), "")]


@cache
def _tree(module: str) -> ast.Module:
    place = PACKAGE.parent.joinpath(*module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _choices(module: str, kind: str) -> str:
    """The choices that a type stands for, if it is the name of some; otherwise the type."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == kind:
            return ast.unparse(node.value)
        if isinstance(node, ast.ImportFrom) and kind in (alias.name for alias in node.names):
            home = node.module or ""
            return _choices(home, kind) if home.startswith(PACKAGE.name) else kind
    return kind


def _member(node: ast.AST, name: str) -> ast.AST:
    body = getattr(node, "body", [])
    return next(each for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name)


def _is_abstract(module: str, name: str, public: Collection[str]) -> bool:
    """Whether a class is only there to be derived from: it has abstract methods, or is the first of its kind."""
    node = _member(_tree(module), name)
    bases = {ast.unparse(base) for base in getattr(node, "bases", [])}
    return "@abstractmethod" in ast.unparse(node) or not bases.intersection(public)


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _settings(module: str, node: ast.ClassDef) -> Iterator[Option]:
    """The arguments of a class, then those that its bases have and it does not."""
    seen = set()
    body = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if "__init__" in body:
        for option in _options(body["__init__"], ast.get_docstring(node) or ""):
            seen.add(option.name)
            yield option
    for base in (each.id for each in node.bases if isinstance(each, ast.Name)):
        home = next(
            (
                each.module
                for each in ast.walk(_tree(module))
                if isinstance(each, ast.ImportFrom) and base in (alias.name for alias in each.names)
            ),
            module,
        )
        if home is not None and home.startswith(PACKAGE.name):
            yield from (each for each in described(home, base).options if each.name not in seen)


def _options(node: ast.AST, docstring: str) -> Iterator[Option]:
    assert isinstance(node, ast.FunctionDef)
    texts = _texts(docstring)
    given = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(given) - len(node.args.defaults)) + [ast.unparse(each) for each in node.args.defaults]
    named = [None if each is None else ast.unparse(each) for each in node.args.kw_defaults]
    for argument, default in zip([*given, *node.args.kwonlyargs], [*defaults, *named], strict=True):
        if argument.arg not in ("self", "cls"):
            kind = "" if argument.annotation is None else ast.unparse(argument.annotation)
            yield Option(argument.arg, kind, default, texts.get(argument.arg, ""))


def _texts(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, behind = cleandoc(docstring).partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", behind)[0]
    return {name: " ".join(text.split()) for name, text in ENTRY.findall(section)}
