from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import lightning_sdft


def test_every_module_imports() -> None:
    for module in pkgutil.walk_packages(lightning_sdft.__path__, "lightning_sdft."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_public_names_are_there_and_are_the_documented_ones() -> None:
    for name in lightning_sdft.__all__:
        assert getattr(lightning_sdft, name).__doc__


def test_import_alone_is_light() -> None:
    script = "import lightning_sdft, sys; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_package_says_that_it_is_typed() -> None:
    assert (Path(lightning_sdft.__path__[0]) / "py.typed").is_file()
