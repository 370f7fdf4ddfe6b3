"""What Sphinx adds to the pages of this folder: the reference, which it writes from the code, and names as links."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from docutils.nodes import Element, Node
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import lightning_sdft
from extension import api, commands, configs, errors, notebooks
from extension.signatures import move_ranges, say_ranges

GENERATED = "generated"

PACKAGE = Path(lightning_sdft.__file__).parent

OTHERS = {"abc", "collections", "contextlib", "datetime", "datasets", "jsonargparse", "lightning", "pathlib", "optuna"}
OTHERS |= {"peft", "re", "timedelta", "Path", "tokenizers", "torch", "torchmetrics", "transformers", "types", "typing"}
"""Packages whose names need no page of ours."""


def write_pages(app: Sphinx) -> None:
    """Write the pages that are made from the code, leaving those alone that are as they were."""
    folder = Path(app.srcdir) / GENERATED
    pages: dict[str, str] = {}
    for part in (api, commands, configs, errors, notebooks):
        pages |= part.pages()
    for name, text in pages.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in folder.rglob("*.*"):
        if file.relative_to(folder).as_posix() not in pages:
            file.unlink()


def resolve(app: Sphinx, env: BuildEnvironment, node: Element, inner: Node) -> Node | None:
    """Find the page of a name of ours that is public, and let names of other packages be text.

    Args:
        app: Sphinx.
        env: What has been read.
        node: The reference.
        inner: Its text.

    Returns:
        A link, a text, or nothing if the name is unknown, which is an error.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    package, _, _ = target.partition(".")
    last = target.rpartition(".")[2]
    domain: Any = env.get_domain("py")
    for public in (f"lightning_sdft.{last}", f"lightning_sdft.errors.{last}"):
        if public in domain.objects and public != target:
            return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, inner)
    ours = package == "lightning_sdft" or package in internal_names()
    return inner if package in OTHERS or (ours and last in internal_names()) else None


@cache
def internal_names() -> set[str]:
    """Names of the package that have no page: modules, classes, functions, methods and constants."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        found.add(file.stem)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of this extension."""
    app.connect("builder-inited", write_pages)
    app.connect("builder-inited", move_ranges)
    app.connect("autodoc-process-docstring", say_ranges, priority=400)  # before napoleon
    app.connect("missing-reference", resolve, priority=900)  # behind intersphinx
    return {"parallel_read_safe": True, "parallel_write_safe": True}
