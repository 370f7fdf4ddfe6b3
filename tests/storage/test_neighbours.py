from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.storage.neighbours import neighbour_hint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("rows.jsonl", "rows.txt", "model", "other"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", ["row.jsonl", "rows", "rows.json", "ROWS.jsonl", "rwos.jsonl"])
def test_a_name_that_is_close(name: str, folder: Path) -> None:
    hint = neighbour_hint(folder / name, lambda each: each.suffix == ".jsonl")
    assert hint == f"; did you mean {folder / 'rows.jsonl'}?"


@pytest.mark.parametrize("name", ["models", "rows.jsonl", "train.jsonl", "rows/of/mine.jsonl"])
def test_what_is_of_another_kind_or_not_close_is_not_meant(name: str, folder: Path) -> None:
    """However long the folders are that both are in."""
    assert neighbour_hint(folder / name, lambda each: each.suffix == ".jsonl") == ""


def test_without_a_folder_the_present_one_is_looked_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert neighbour_hint(Path("mode"), lambda each: not each.suffix) == "; did you mean model?"
