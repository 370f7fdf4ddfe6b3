"""Pictures are written, and say which method is where."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report import pictures
from lightning_sdft.experiments.report.pictures import pareto_picture
from lightning_sdft.experiments.report.results import Row
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


@pytest.mark.parametrize("domains", [["double"], ["double", "swap", "last"]])
@pytest.mark.parametrize("name", ["SFT", "SFT on the teacher's answers"])
def test_names_are_not_cut(name: str, domains: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    figures: list[Any] = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, out, name: figures.append(figure))
    names = [name, f"{name} anew", f"{name} alone", f"{name} again"]
    found = [row(each, 1e-5, 0, domain=domain) for each in (BASE, *names) for domain in domains]
    pareto_picture(found, names, domains, "", tmp_path)
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= figure.bbox.x0
    assert box.x1 <= figure.bbox.x1
    assert len(legend.get_texts()) == 5


def test_intervals_end_where_a_share_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    figures: list[Any] = []
    monkeypatch.setattr(pictures, "save_picture", lambda figure, out, name: figures.append(figure))
    found = [row("SFT", 1e-5, seed, new=new) for seed, new in enumerate((0.9, 1.0, 1.0))]
    pareto_picture(found, ["SFT"], ["double"], "", tmp_path)
    (bars,) = figures[0].axes[0].containers
    (_, (_, top)) = bars.lines[2][1].get_segments()[0]
    assert top == pytest.approx(100)


def test_without_prior_tasks_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert pareto_picture([row("SFT", 1e-5, 0, prior={})], ["SFT"], ["double"], "", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.split(".")[0] == "matplotlib":
                raise ModuleNotFoundError(name)

    monkeypatch.setattr("lightning_sdft.experiments.report.pictures.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "meta_path", [Gone(), *sys.meta_path])
    assert pareto_picture(rows("double"), ["SFT"], ["double"], "", tmp_path) == []
    assert list(tmp_path.iterdir()) == []
