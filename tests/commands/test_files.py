from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from lightning_sdft.commands.files import output_files, write_rows
from lightning_sdft.errors import DataError


def test_files_are_named_after_the_first(tmp_path: Path) -> None:
    files = output_files(str(tmp_path / "rows.jsonl"), ["validation", "test"])
    names = {kind: path.name for kind, path in files.items()}
    assert names == {
        "train": "rows.jsonl",
        "validation": "rows.validation.jsonl",
        "test": "rows.test.jsonl",
        "journal": "rows.journal.jsonl",
    }


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.test.jsonl"])
def test_rows_of_others_are_refused_and_own_ones_are_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(DataError, match=f"{name} exists, and not from this command.*rows.journal.jsonl"):
        output_files(str(tmp_path / "rows.jsonl"), ["test"])
    (tmp_path / "rows.journal.jsonl").write_text("")
    output_files(str(tmp_path / "rows.jsonl"), ["test"])


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in .jsonl"):
        output_files(str(tmp_path / "rows.json"), [])


def test_rows_replace_those_of_an_earlier_run_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "rows.jsonl"
    write_rows(path, [{"id": "a", "text": "über\nzwei"}, {"id": "b"}])
    write_rows(path, [{"id": "c", "text": "drei"}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": "c", "text": "drei"}]
    write_rows(path, [{"id": "d", "reference": date(2024, 5, 1)}])
    assert json.loads(path.read_text()) == {"id": "d", "reference": "2024-05-01"}
    write_rows(path, [])
    assert not list(path.parent.iterdir())
