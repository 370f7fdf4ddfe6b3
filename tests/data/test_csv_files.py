from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_sdft.data.csv_files import separated
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.tables import read_rows
from lightning_sdft.errors import DataError

ROWS: list[dict[str, str | None]] = [
    {"prompt": 'Say "hi", then\nleave.', "response": "hi; bye", "note": None},
    {"prompt": "1,5 + 1", "response": "2,5\t", "note": 'tab, comma; quote "'},
    {"prompt": "größer?\n\n", "response": "ja", "note": " "},
]


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".CSV", ";"), (".tsv", "\t")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_was_written_is_read(tmp_path: Path, suffix: str, delimiter: str, encoding: str, end: str) -> None:
    path = tmp_path / f"own{suffix}"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        writer.writerows(ROWS)
    assert read_rows(str(path)) == ROWS


def test_lines_without_values_are_passed_over() -> None:
    assert separated("a.csv", "\n\nprompt , response\n\n,\na,b\n\n") == [{"prompt": "a", "response": "b"}]


def test_a_cell_may_be_longer_than_the_csv_module_allows() -> None:
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    assert separated("a.csv", f"prompt,response\n{long},b")[0]["prompt"] == long
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,,b\n1,2,3", "own.csv, line 1: the first line must name the columns, but has a cell without a name"),
        ("a,b,a\n1,2,3", "own.csv, line 1: the first line must name the columns, but names 'a' more than once"),
        ('prompt,response\n"x\ny",b\n"c,d\n', r"own.csv, row 2 \(from line 4\): quotes do not match"),
        ('prompt,response\n"x"y,b\n', r"own.csv, row 1 \(from line 2\): quotes do not match"),
        ('"prompt,response\n', "own.csv, line 1: quotes do not match"),
    ],
)
def test_a_broken_table_is_refused_where_it_breaks(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        separated("own.csv", text)


@pytest.fixture
def ragged(tmp_path: Path) -> str:
    path = tmp_path / "own.csv"
    path.write_text('prompt,response\n"a\nb",c\nd,e,f\ng\n,h\ni,\nj,k\n')
    return str(path)


def test_a_row_of_another_length_is_a_bad_row(ragged: str) -> None:
    with pytest.raises(
        DataError, match=r"own.csv, row 2 \(line 4\): 3 cells, but the first line names 2 columns; put "
    ):
        JsonDataModule(ragged).splits  # noqa: B018
    kept = JsonDataModule(ragged, on_bad_row="skip").splits.train
    assert [(each.id, each.prompt[0]["content"], each.demonstration) for each in kept] == [
        ("own-1", "a\nb", "c"),
        ("own-6", "j", "k"),
    ]


@pytest.mark.parametrize(("cells", "column"), [(",h", "prompt"), ("i,", "response")])
def test_an_empty_cell_is_a_bad_row(tmp_path: Path, cells: str, column: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"prompt,response\na,b\n{cells}\n")
    with pytest.raises(DataError, match=rf"own.csv, row 2: column '{column}' holds null"):
        JsonDataModule(str(path)).splits  # noqa: B018


def test_a_table_without_names_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("Add 2 and 3.\t5\nAdd 3 and 4.\t7\n")
    with pytest.raises(
        DataError, match=r"own.tsv: no layout is known in which the columns are 'Add 2 and 3.', '5'.*The first line of"
    ):
        JsonDataModule(str(path)).splits  # noqa: B018


def test_a_missing_tsv_file_is_not_looked_up_on_the_hub() -> None:
    with pytest.raises(DataError, match=r"^own.tsv: no such file or folder"):
        read_rows("own.tsv")
