"""What we reach into of other packages that they do not promise to keep: one line each, and an upgrade fails here."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
import weakref
from collections.abc import Callable
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from packaging.requirements import Requirement

from tests.private_reaches import REACHES

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_sdft"
LINES = [(file, path, use) for file, lines in REACHES.items() for path, use in lines.items()]
OPTIONAL = ("bitsandbytes", "lm_eval", "optuna", "peft", "vllm")
UNDOCUMENTED = re.compile(r"transformers\.(?!utils\.)\w|(tensorboard|vllm)\.\w|lm_eval\.(models|utils)\.")
"""Modules that have no underscore, from which to import is a reach all the same."""


# What is there


def fault(path: str) -> str | None:
    """What another package does not have as we need it, after its name and version; ``None`` if all is well.

    Args:
        path: `module:Class.name(parameters)`. A name may also be one that methods of the class assign to ``self``.
    """
    place, _, parameters = path.rstrip(")").partition("(")
    module, _, names = place.partition(":")
    try:
        found: Any = import_module(module)
    except ImportError as error:
        return f"has no module {module} ({error})"
    for name in filter(None, names.split(".")):
        if inspect.ismodule(found) and not hasattr(found, name) and find_spec(f"{found.__name__}.{name}") is not None:
            import_module(f"{found.__name__}.{name}")  # a module that nothing has imported yet
        if not hasattr(found, name) and not (inspect.isclass(found) and name in members(found)):
            return f"has no {place}"
        found = getattr(found, name, None)
    if parameters:
        missing = {each.strip() for each in parameters.split(",")} - set(inspect.signature(found).parameters)
        return f"has {place} without the parameters {sorted(missing)}" if missing else None
    holds = PROBES.get(place)
    return None if holds is None or holds() else f"has {place}, but it does not do what it did"


def members(owner: type) -> set[str]:
    """What a class and its bases define, or assign to ``self``."""
    return {name for each in owner.__mro__ for name in own_members(each)}


@cache
def own_members(owner: type) -> frozenset[str]:
    """What a class itself defines, or assigns to ``self``."""
    try:
        file = inspect.getsourcefile(owner)
    except TypeError:
        file = None
    return classes(Path(file)).get(owner.__name__, frozenset()) if file else frozenset(vars(owner))


@cache
def classes(file: Path) -> dict[str, frozenset[str]]:
    """The classes of a file by name: what each defines, or assigns to ``self``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {each.name: frozenset(defined(each)) for each in ast.walk(tree) if isinstance(each, ast.ClassDef)}


def defined(owner: ast.ClassDef) -> set[str]:
    stores = [each for each in ast.walk(owner) if isinstance(getattr(each, "ctx", None), ast.Store)]
    return {
        *(each.name for each in ast.walk(owner) if isinstance(each, ast.FunctionDef)),
        *(each.attr for each in stores if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"),
        *(each.id for each in stores if isinstance(each, ast.Name)),
    }


# What is reached


def reached(file: Path, own: set[str]) -> set[str]:
    """Private names that a file reads of what is not ours, and what it imports from undocumented modules.

    Args:
        file: The file.
        own: Private names of our own classes.
    """
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found |= {node.attr} - own if private(node.attr) else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            found |= {name} - own if private(name) else set()
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names if undocumented(each.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(PACKAGE):
            found |= {each.name for each in node.names if undocumented(node.module) or private(each.name)}
    return found


def overridden(file: Path) -> set[str]:
    """Private names of other packages' classes that ours define or assign as well."""
    try:
        module = import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    except ImportError as error:
        if error.name not in OPTIONAL:
            raise
        return set()
    found = set()
    for owner in vars(module).values():
        if inspect.isclass(owner) and owner.__module__ == module.__name__:
            foreign = [each for each in owner.__mro__ if not each.__module__.startswith(PACKAGE)]
            found |= {name for each in foreign for name in own_members(owner) & own_members(each) if private(name)}
    return found


def private(name: str) -> bool:
    return re.match(r"_[^_]", name) is not None


def undocumented(module: str) -> bool:
    return UNDOCUMENTED.match(f"{module}.") is not None or any(map(private, module.split(".")))


def sources() -> list[Path]:
    return [each for each in sorted((ROOT / PACKAGE).rglob("*.py")) if each.name != "__main__.py"]


def listed(file: Path) -> set[str]:
    """The last names of the lines of a file."""
    name = file.relative_to(ROOT / PACKAGE).as_posix()
    return {last(path) for files, path, _ in LINES if name in files.split()}


def last(path: str) -> str:
    return re.split(r"[:.]", path.partition("(")[0])[-1]


# What it does, asked late: what cannot be imported any more is to fail with a sentence


def lightnings_counters() -> bool:
    loops = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop.state_dict()
    counters = [loops[f"epoch_loop.{name}batch_progress"] for name in ("", "val_loop.")]
    kinds = {"ready", "started", "processed", "completed"}
    return all(kinds == set(each[kind]) for each in counters for kind in ("total", "current"))


def settings_are_put_back() -> bool:
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings

    from lightning_sdft.trust import trusting

    before = dict(parsing_settings)
    with trusting("mylab"):
        set_parsing_settings(validate_defaults=True)
        changed = parsing_settings != before
    return changed and parsing_settings == before


def a_layer_of_the_cache_is_what_we_fill() -> bool:
    from transformers.cache_utils import DynamicLayer

    layer, states = DynamicLayer(), torch.ones(1, 1, 2, 3)
    layer.update(states, states)
    return set(vars(layer)) - {"dtype"} == {"keys", "values", "device", "is_initialized"}  # no release reads its dtype


def a_storage_has_one_object() -> bool:
    tensor, gone = torch.ones(2), []
    weakref.finalize(tensor.untyped_storage(), gone.append, True)
    before, part = id(tensor.untyped_storage()), tensor[1:]
    del tensor
    kept = not gone and id(part.untyped_storage()) == before
    del part
    return kept and gone == [True]


PROBES: dict[str, Callable[[], bool]] = {
    "jsonargparse._common:parsing_settings": settings_are_put_back,
    "lightning.pytorch.loops.fit_loop:_FitLoop.state_dict": lightnings_counters,
    "torch:Tensor.untyped_storage": a_storage_has_one_object,
    "transformers.cache_utils:DynamicLayer": a_layer_of_the_cache_is_what_we_fill,
}


@pytest.mark.parametrize(("file", "path", "use"), LINES, ids=[path for _, path, _ in LINES])
def test_what_we_reach_into_is_there(file: str, path: str, use: str) -> None:
    package = re.split("[.:]", path)[0]
    if package in OPTIONAL:
        pytest.importorskip(package)
    wrong = fault(path)
    if wrong is not None:
        name = metadata.packages_distributions()[package][0]
        pytest.fail(
            f"{name} {metadata.version(name)} {wrong}. {PACKAGE}/{file} needs it to {use}. Mend that file, or hold "
            f"{name} back in pyproject.toml",
            pytrace=False,
        )


def test_the_index_of_a_checkpoint_in_parts_holds_what_we_let_it_name(tmp_path: Path) -> None:
    from lightning_sdft.distributed.checkpoint_index import IndexReader

    state = {"a": torch.ones(2, dtype=torch.bfloat16), "b": 1}
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path, no_dist=True)
    assert set(IndexReader(tmp_path).read_metadata().state_dict_metadata) == set(state)


def test_every_reach_has_its_line() -> None:
    own: dict[Path, set[str]] = {}  # by room, for classes of a room share their private names
    for file in sources():
        own.setdefault(file.parent, set()).update(*classes(file).values())
    found = {file: (reached(file, own[file.parent]) | overridden(file)) - listed(file) for file in sources()}
    unknown = [f"{file.relative_to(ROOT)} reaches into {sorted(names)}" for file, names in found.items() if names]
    assert not unknown, f"{unknown}; do without, or say what it is for in tests/private_reaches.py"


def test_every_line_is_in_use_and_has_one_home() -> None:
    for files, path, _ in LINES:
        for file in files.split():
            assert re.search(rf"\b{last(path)}\b", (ROOT / PACKAGE / file).read_text(encoding="utf-8")), (
                f"{PACKAGE}/{file} does not use {path} any more; take its line out of tests/private_reaches.py"
            )
    paths = [path for _, path, _ in LINES]
    assert len(paths) == len(set(paths)), "a line stands in two files; give what it reaches into one home"


@pytest.mark.parametrize("package", sorted({re.split("[.:]", path)[0] for _, path, _ in LINES}))
def test_packages_that_we_reach_into_have_an_upper_bound(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for each in project["optional-dependencies"].values() for text in each)]
    (requirement,) = (each for each in map(Requirement, texts) if each.name.replace("-", "_") == package)
    assert any(each.operator in ("<", "==") for each in requirement.specifier), f"{requirement} has no upper bound"
    pinned = re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is None or requirement.specifier.contains(pinned[1]), f"constraints.txt: {pinned[0]}, {requirement}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from torch._C import x", {"x"}),
        ("from torch import _C", {"_C"}),
        ("import torch._C", {"torch._C"}),
        ("from transformers.cache_utils import DynamicLayer", {"DynamicLayer"}),
        ("from transformers.utils import logging", set()),
        ("thing._hidden", {"_hidden"}),
        ('getattr(thing, "_hidden", None)', {"_hidden"}),
        ("thing._ours, thing.public, thing.__class__", set()),
    ],
)
def test_reaches_are_found(tmp_path: Path, text: str, names: set[str]) -> None:
    file = tmp_path / "some.py"
    file.write_text(text, encoding="utf-8")
    assert reached(file, {"_ours"}) == names


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("torch.nn:Module._apply(fn)", None),
        ("torch.nn:Module._parameters", None),  # which __init__ assigns
        ("torch.nn:Module._gone", "has no torch.nn:Module._gone"),
        ("torch.nn:Module._apply(fn, gone)", r"without the parameters \['gone'\]"),
        ("torch.gone:x", "has no module torch.gone"),
    ],
)
def test_what_is_not_there_any_more_is_found(path: str, wrong: str | None) -> None:
    found = fault(path)
    assert found is None if wrong is None else re.search(wrong, str(found))
