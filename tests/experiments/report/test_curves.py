"""The picture of skills in sequence."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.experiments.report.curves import curves_picture
from tests.experiments.report.test_pictures import check_picture
from tests.experiments.stages import SKILLS, sequence

MATRIX = [[0.5, 0.25], [1.0, 0.5], [0.75, 1.0]]


def test_picture_has_a_panel_for_each_method_and_a_line_for_each_skill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn: list[tuple[list[int], list[float], str]] = []
    switches: list[float] = []
    plot, line = axes.Axes.plot, axes.Axes.axvline
    monkeypatch.setattr(
        axes.Axes, "plot", lambda self, *xy, **style: (drawn.append((*xy, style["label"])), plot(self, *xy, **style))[1]
    )
    monkeypatch.setattr(axes.Axes, "axvline", lambda self, x, **style: (switches.append(x), line(self, x, **style))[1])
    sequences = [sequence("SFT", 1e-5, seed, MATRIX) for seed in (0, 1)] + [sequence("SDFT", 1e-5, 0, MATRIX)]
    assert curves_picture(sequences, ["SFT", "SDFT", "DFT"], SKILLS, "Laptop", tmp_path) == ["curves.png", "curves.svg"]
    text = check_picture(tmp_path, "curves")
    assert all(f"<!-- {said} -->" in text for said in ("Laptop", "SFT", "SDFT", "a", "b"))
    assert "<!-- DFT -->" not in text
    # From the base model on, behind four steps of the first stage those of the second.
    expected = [([0, 2, 4, 6, 8], [50, 50, 100, 37.5, 75], "a"), ([0, 2, 4, 6, 8], [25, 25, 50, 50, 100], "b")]
    assert drawn == expected * 2
    assert switches == [4, 4]


def test_without_matplotlib_or_anything_to_show_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert curves_picture([], ["SFT"], SKILLS, "", tmp_path) == []
    monkeypatch.setattr("lightning_sdft.experiments.report.curves.find_spec", lambda name: None)
    assert curves_picture([sequence("SFT", 1e-5, 0, MATRIX)], ["SFT"], SKILLS, "", tmp_path) == []
    assert list(tmp_path.iterdir()) == []
