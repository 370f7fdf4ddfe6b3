"""Every error that a user can meet: its class, and what it says."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lightning_sdft import errors

__all__ = ["pages"]

PACKAGE = Path(errors.__file__).parent

KINDS = tuple(name for name in errors.__all__ if name.endswith("Error"))

SAYING = {
    "commands/complaints.py": ("SettingError", {"complaint", "_unrecognized"}),
    "data/layouts.py": ("DataError", {"_problem"}),
    "distributed/strategy.py": ("PolicyError", {"_unsupported"}),
    "modules/rollout_source.py": ("SettingError", {"source_problem"}),
    "policy/model_files.py": ("PolicyError", {"_reason"}),
    "records.py": ("DataError", {"text_problem"}),
    "settings/ranges.py": ("SettingError", {"problem"}),
    "teacher/factory.py": ("SettingError", {"problem"}),
}
"""Functions that return what an error says, by their file, and the kind of the error."""


def pages() -> dict[str, str]:
    """The page, by the name of its file."""
    said: dict[str, dict[str, list[str]]] = {kind: defaultdict(list) for kind in KINDS}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for kind, expression in sayings(node, file.relative_to(PACKAGE).as_posix()):
                text = message(expression)
                if text.strip(". "):  # more than what is only known when it is said
                    said[kind][room].append(text)
    lines = ["# Errors\n", _INTRODUCTION]
    for kind, rooms in said.items():
        lines += [f"## {kind}\n", "```{eval-rst}", f".. autoclass:: lightning_sdft.errors.{kind}", "```\n"]
        for room, texts in sorted(rooms.items()):
            lines += [f"From `{room}`:\n", *(f"- {text}" for text in dict.fromkeys(texts)), ""]
    return {"errors.md": "\n".join(lines)}


def sayings(node: ast.AST, file: str) -> Iterator[tuple[str, ast.expr]]:
    """The kind of an error, and what it says, of a piece of code that makes an error or is in :data:`SAYING`."""
    kind, functions = SAYING.get(file, ("", set()))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
        yield node.func.id, node.args[0]
    elif isinstance(node, ast.FunctionDef) and node.name in functions:
        for each in ast.walk(node):
            if isinstance(each, ast.Return) and each.value is not None:
                yield kind, each.value


_INTRODUCTION = """A refusal is one line that begins with `error:`, and the exit code is 2; `--debug` shows where it
comes from. In Python each is a `Refusal` of `lightning_sdft.errors`. These are the texts that stand where an error
is raised; what differs from case to case is written as `...`.
"""


def message(node: ast.expr) -> str:
    """The text of an expression, with `...` for what is only known when it is said."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _escaped(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return message(node.left) + message(node.right)
    return ""


def _escaped(text: str) -> str:
    for sign in "\\`*_<[$|{":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split()) if "\n" in text else text
