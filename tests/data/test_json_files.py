import json
import logging

import pytest

from lightning_sdft.data import JsonDataModule
from lightning_sdft.data.tables import open_rows, read_rows
from lightning_sdft.errors import DataError

GOOD = {"prompt": 'a, "b" [c', "response": "}{"}
DEEP = '{"prompt": "a", "response": "b", "more": ' + "[" * 100_000 + "]" * 100_000 + "}"
LONG = '{"prompt": "a", "response": "b", "more": ' + "7" * 5_000 + "}"
BAD = [
    (DEEP, "nested too deeply"),
    (LONG, "a number has more than the 4300 digits that can be read; write it as a string"),
    ("7", r"int \(7\) instead of an object"),
]


@pytest.fixture(params=["list", "lines"])
def write(request, tmp_path):
    """Writes rows given as text, in both forms."""

    def write(*rows):
        path = tmp_path / "rows.json"
        path.write_text("[" + ", ".join(rows) + "]" if request.param == "list" else "\n".join(rows))
        return str(path)

    return write


@pytest.mark.parametrize(("bad", "complaint"), BAD, ids=["deep", "long", "number"])
def test_row_that_cannot_be_read_is_named_or_skipped(write, bad, complaint, caplog):
    path = write(json.dumps(GOOD), bad, json.dumps({**GOOD, "response": "c"}))
    with pytest.raises(DataError, match=rf"rows.json, (row|line) 2: .*{complaint}"):
        read_rows(path)
    with pytest.raises(DataError, match=rf"{complaint}.*\(data.on_bad_row=skip leaves such rows out\)"):
        JsonDataModule(train=path).splits  # noqa: B018
    with caplog.at_level(logging.WARNING, "lightning_sdft.data"):
        train = JsonDataModule(train=path, on_bad_row="skip").splits.train
    assert [(example.id, example.demonstration) for example in train] == [("rows-1", "}{"), ("rows-3", "c")]
    assert "left out 1 of 3 rows" in caplog.text


def test_broken_line_is_a_bad_row_and_a_broken_list_is_a_broken_file(tmp_path):
    lines, listed = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text(json.dumps(GOOD) + '\n{"prompt": "cut')
    listed.write_text(f'[{json.dumps(GOOD)}, {{"prompt": "cut')
    assert len(JsonDataModule(train=str(lines), on_bad_row="skip").splits.train) == 1
    with pytest.raises(DataError, match=r"rows.json, line 1: broken JSON"):
        JsonDataModule(train=str(listed), on_bad_row="skip").splits  # noqa: B018


def test_elements_of_a_list_are_divided_as_json_divides_them(tmp_path):
    rows = [{"a": '],[{"\\'}, {"b": [1, {"c": []}]}, {}, {'\\"': ","}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, "deep"], indent=1).replace('"deep"', DEEP))
    assert open_rows(str(path))[:-1] == rows


def test_value_too_deep_to_be_checked_is_a_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    deep = "[" * 700 + "]" * 700
    path.write_text(f'{json.dumps({**GOOD, "answer": 1})}\n{{"prompt": "a", "response": "b", "answer": {deep}}}\n')
    data = JsonDataModule(train=str(path), reference_column="answer")
    with pytest.raises(DataError, match=r"row 2: lists or objects are nested too deeply"):
        data.splits  # noqa: B018
