"""Every error that a user can meet: its class, and what it says."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from lightning_sdft import errors

__all__ = ["pages"]

PACKAGE = Path(errors.__file__).parent

KINDS = tuple(name for name in errors.__all__ if name.endswith("Error"))


def pages() -> dict[str, str]:
    """The page, by the name of its file."""
    said: dict[str, dict[str, list[str]]] = {kind: defaultdict(list) for kind in KINDS}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                text = message(node.args[0])
                if text:
                    said[node.func.id][room].append(text)
    lines = ["# Errors\n", _INTRODUCTION]
    for kind, rooms in said.items():
        lines += [f"## {kind}\n", "```{eval-rst}", f".. autoclass:: lightning_sdft.errors.{kind}", "```\n"]
        for room, texts in sorted(rooms.items()):
            lines += [f"From `{room}`:\n", *(f"- {text}" for text in dict.fromkeys(texts)), ""]
    return {"errors.md": "\n".join(lines)}


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
