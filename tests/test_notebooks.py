"""The notebooks as they are stored, whose outputs the docs show, and as they run: each checks its claims at its end."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.command_process import CommandProcess

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

PLACES = re.compile(r"(?<![\w.<])/(?:tmp|home|root|work|usr|var|mnt|Users)/|\\Users\\")
"""A path of the machine on which a notebook was executed."""

EXECUTION = """
import json, sys
from pathlib import Path

import matplotlib
from IPython.core.interactiveshell import InteractiveShell

matplotlib.use("module://matplotlib_inline.backend_inline")
shell = InteractiveShell.instance()
for cell in json.loads(Path(sys.argv[1]).read_text())["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell("".join(cell["source"])).raise_error()
"""
"""What Jupyter does, but for a process that has to import everything."""

Cell = dict[str, Any]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def cells(notebook: Path) -> list[Cell]:
    stored: list[Cell] = json.loads(notebook.read_text())["cells"]
    return stored


def code(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_they_are_found() -> None:
    assert len(NOTEBOOKS) == 6


def test_they_begin_with_what_they_show(cells: list[Cell]) -> None:
    title, _, about = "".join(cells[0]["source"]).partition("\n\n")
    assert title.startswith("# ")
    assert about.startswith("This notebook ")


def test_they_are_stored_as_they_were_executed_from_top_to_bottom(cells: list[Cell]) -> None:
    """Execute them anew after a change: ``.venv/bin/pytest --nbmake --overwrite notebooks``."""
    assert [cell["execution_count"] for cell in code(cells)] == list(range(1, len(code(cells)) + 1))
    assert any(cell["outputs"] for cell in code(cells))


def test_outputs_have_no_noise_and_no_paths(cells: list[Cell]) -> None:
    for output in (output for cell in code(cells) for output in cell["outputs"]):
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output["text"]
        assert not PLACES.search(json.dumps(output)), output


def test_they_check_what_they_say_in_the_last_cell(cells: list[Cell]) -> None:
    last = ast.parse("".join(cells[-1]["source"]))
    assert sum(isinstance(line, ast.Assert) for line in last.body) >= 2
    assert not cells[-1]["outputs"]


def test_they_run_and_what_they_say_holds(notebook: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = CommandProcess(notebook, folder=tmp_path, log=log, script=EXECUTION)
    assert process.wait(600) == 0, log.read_text()
