from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import lightning_sdft


def test_every_module_can_be_the_first_that_is_imported() -> None:
    """So that no import depends on another one having come before."""
    names = [module.name for module in pkgutil.walk_packages(lightning_sdft.__path__, "lightning_sdft.")]
    script = """
import importlib, sys

def first(name):
    for loaded in [each for each in sys.modules if each.split(".")[0] == "lightning_sdft"]:
        del sys.modules[loaded]
    importlib.import_module(name)
    return set(sys.modules)

reached = {}
for name in sys.argv[1:]:
    package = name.rpartition(".")[0]  # is imported before it, and what that has reached has been imported like that
    if package not in reached:
        reached[package] = first(package)
    if name not in reached[package]:
        first(name)
"""
    first = [name for name in names if not name.endswith("__main__")]
    subprocess.run([sys.executable, "-c", script, *first], check=True)


def test_public_names_are_there_and_are_the_documented_ones() -> None:
    for name in lightning_sdft.__all__:
        assert getattr(lightning_sdft, name).__doc__


def test_import_alone_is_light() -> None:
    script = "import lightning_sdft, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_package_says_that_it_is_typed() -> None:
    assert (Path(lightning_sdft.__path__[0]) / "py.typed").is_file()
