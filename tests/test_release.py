"""What is published: the citation, the workflow, and what is built."""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_sdft
from tests.wheel import missing_from_sdist, missing_from_wheel

ROOT = Path(__file__).parents[1]


def read(*parts: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))


def test_citation_has_what_its_format_requires_and_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == lightning_sdft.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["url"].endswith("2601.19897")


def commands(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_workflow_calls_targets_of_the_makefile_and_nothing_else() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = commands(read(".github", "workflows", "ci.yml"))
    for command in called:
        make, target = command.split()
        assert make == "make"
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    checked = re.search(r"^check: ##.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert checked
    targets = set(re.findall(r"\b(?<!-)[a-z]+\b", checked[1]))
    assert targets == {"lint", "types", "docs", "test"}
    assert {f"make {target}" for target in targets} <= set(called)


def test_workflow_begins_with_the_oldest_python_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = read(".github", "workflows", "ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"


def test_release_waits_for_the_checks() -> None:
    jobs = read(".github", "workflows", "ci.yml")["jobs"]
    assert set(jobs["release"]["needs"]) == {"check", "wheel"}


@pytest.mark.parametrize(
    ("name", "wheel", "sdist"),
    [
        ("configs/base.yaml", {"lightning_sdft/configs/base.yaml"}, {"configs/base.yaml"}),
        ("lightning_sdft/py.typed", {"lightning_sdft/py.typed"}, {"lightning_sdft/py.typed"}),
        ("Makefile", set(), {"Makefile"}),
        (None, {"tests/stray.py"}, set()),
    ],
)
def test_what_is_not_built_in_is_found(name: str | None, wheel: set[str], sdist: set[str], tmp_path: Path) -> None:
    """Of a wheel and an sdist that hold all but one file, or one too many."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    in_wheel, in_sdist = missing_from_wheel(tmp_path / "empty.whl"), missing_from_sdist(tmp_path / "a.tar.gz")
    assert wheel - {"tests/stray.py"} <= in_wheel
    assert sdist <= in_sdist
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as file:
        for each in in_wheel - wheel | ({"tests/stray.py"} if name is None else set()):
            file.writestr(each, "")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        for each in in_sdist - sdist:
            archive.addfile(tarfile.TarInfo(f"lightning_sdft-0.1.0/{each}"))
    assert missing_from_wheel(tmp_path / "a.whl") == wheel
    assert missing_from_sdist(tmp_path / "b.tar.gz") == sdist
