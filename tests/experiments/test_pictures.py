"""Pictures are written, and say which method is where."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightning_sdft.experiments.pictures import pareto_picture
from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.results import Row
from tests.experiments.rows import failed, row


def check_picture(folder: Path, name: str) -> str:
    """The SVG as text, behind a look at both files."""
    content = (folder / f"{name}.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 300
    assert height > 300
    assert ElementTree.fromstring((folder / f"{name}.svg").read_text()).tag.endswith("svg")
    return (folder / f"{name}.svg").read_text()


def rows(domain: str) -> list[Row]:
    found = [row(BASE, None, 0, domain=domain)]
    found += [row("SFT", rate, seed, new=0.1 * seed, domain=domain) for rate in (1e-5, 5e-5) for seed in (1, 2)]
    return [*found, row("DFT", 1e-5, 0, domain=domain)]


def test_picture_is_written_with_its_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given = [*rows("double"), *rows("swap"), failed("DFT", 1e-5, 1)]
    names = pareto_picture(given, ["SFT", "DFT"], ["double", "swap"], "Laptop", tmp_path)
    assert names == ["pareto.png", "pareto.svg"]
    text = check_picture(tmp_path, "pareto")
    for said in ("Laptop", "double", "swap", BASE, "SFT", "DFT"):
        assert f"<!-- {said} -->" in text
    again = text
    pareto_picture(given, ["SFT", "DFT"], ["double", "swap"], "Laptop", tmp_path)
    assert (tmp_path / "pareto.svg").read_text().count("<path") == again.count("<path")


def test_method_that_failed_on_the_first_domain_is_in_the_legend(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for first in ([], [row(BASE, None, 0)], [failed("SFT", 1e-5, 0)]):
        pareto_picture([*first, *rows("swap")], ["SFT", "DFT"], ["double", "swap"], "", tmp_path)
        text = check_picture(tmp_path, "pareto")
        assert all(text.count(f"<!-- {said} -->") == 1 for said in (BASE, "SFT", "DFT"))


def test_without_prior_tasks_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert pareto_picture([row("SFT", 1e-5, 0, prior={})], ["SFT"], ["double"], "", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.split(".")[0] == "matplotlib":
                raise ModuleNotFoundError(name)

    monkeypatch.setattr("lightning_sdft.experiments.pictures.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "meta_path", [Gone(), *sys.meta_path])
    assert pareto_picture(rows("double"), ["SFT"], ["double"], "", tmp_path) == []
    assert list(tmp_path.iterdir()) == []
