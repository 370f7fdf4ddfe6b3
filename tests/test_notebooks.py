"""The notebooks as they are stored: the docs show their outputs. That they run, and that what they say holds, is tested
by executing them (``--nbmake``); each checks its own claims in its last cell.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

PLACES = re.compile(r"(?<![\w.<])/(?:tmp|home|root|work|usr|var|mnt|Users)/|\\Users\\")
"""A path of the machine on which a notebook was executed."""

Cell = dict[str, Any]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request: pytest.FixtureRequest) -> list[Cell]:
    stored: list[Cell] = json.loads(request.param.read_text())["cells"]
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
