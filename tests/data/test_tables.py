import json

import datasets
import pytest

from lightning_sdft.data.tables import hold_out, read_rows, take
from lightning_sdft.errors import DataError

ROWS = [
    {"question": "Which?", "tags": ["a", "b"], "answer": {"text": "this"}},
    {"question": "Why\u2028so?", "tags": [], "answer": {"text": "thus"}},
]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# Formats


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", json.dumps(ROWS, indent=2)),
        ("lines.json", lines(ROWS)),
        ("lines.jsonl", lines(ROWS)),
        ("blank.jsonl", "\n" + lines(ROWS).replace("\n", "\r\n\r\n")),
        ("mark.jsonl", "\ufeff" + lines(ROWS)),
    ],
)
def test_reads_json(write, name, text):
    assert read_rows(write(name, text)) == ROWS


def test_reads_a_single_line(write):
    assert read_rows(write("one.json", lines(ROWS[:1]))) == ROWS[:1]


def test_reads_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    assert read_rows(str(path)) == ROWS


def test_reads_a_saved_data_set_whatever_split_is_asked_for(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert read_rows(str(tmp_path / "saved")) == ROWS
    assert read_rows(str(tmp_path / "saved"), split="train") == ROWS


@pytest.fixture
def saved_splits(tmp_path):
    splits = {"train": ROWS[:1], "test": ROWS[1:]}
    folder = tmp_path / "splits"
    datasets.DatasetDict({key: datasets.Dataset.from_list(rows) for key, rows in splits.items()}).save_to_disk(folder)
    return str(folder)


def test_reads_the_split_of_a_saved_dictionary(saved_splits):
    assert read_rows(saved_splits, "test") == ROWS[1:]


@pytest.mark.parametrize(("split", "complaint"), [("dev", "no split 'dev'"), (None, "several splits")])
def test_names_the_splits_there_are(saved_splits, split, complaint):
    with pytest.raises(DataError, match=rf"splits: {complaint}; it has \['test', 'train'\]"):
        read_rows(saved_splits, split)


def test_takes_the_only_split(tmp_path):
    datasets.DatasetDict(all=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    assert read_rows(str(tmp_path / "saved")) == ROWS


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("name", ("name", None, None)),
        ("owner/name-v1.5", ("owner/name-v1.5", None, None)),
        ("owner/my.data", ("owner/my.data", None, None)),
        ("owner/name:en", ("owner/name", "en", None)),
        ("owner/name@3284f6f", ("owner/name", None, "3284f6f")),
        ("owner/name:Chemistry@3284f6f", ("owner/name", "Chemistry", "3284f6f")),
    ],
)
@pytest.mark.parametrize("split", ["train", "other"])
def test_asks_the_hub_for_anything_else(monkeypatch, source, asked, split):
    calls = []

    def load_dataset(name, configuration, revision):
        calls.append((name, configuration, revision))
        rest = datasets.Dataset.from_list(ROWS[:1])
        return datasets.DatasetDict({split: datasets.Dataset.from_list(ROWS), "rest": rest})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_rows(source, split) == ROWS
    assert calls == [asked]


def test_says_that_the_hub_does_not_have_it_and_how_else_to_give_it(monkeypatch):
    def load_dataset(name, configuration, revision):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match=r"owner/name: neither a file nor a readable data set.*no network.*by data.test"
    ):
        read_rows("owner/name", "test", argument="data.test")


# Broken sources


@pytest.mark.parametrize("source", ["rows.json", "data/rows.jsonl", "./rows", "../rows", "/rows", "~/rows", "a/b/rows"])
def test_a_missing_file_is_not_looked_up_on_the_hub(monkeypatch, source):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=f"^{source}: no such file or folder"):
        read_rows(source)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("rows.jsonl", lines(ROWS) + '{"question": \n', r"rows.jsonl, line 3: broken JSON .*column"),
        ("rows.json", '\n\n{"question": "a"}\n{"question"}\n', r"rows.json, line 4: broken JSON"),
        ("rows.json", '[\n{"question": "a"},\n{"question"}\n]', r"rows.json, line 3: broken JSON"),
        ("rows.json", '{\n  "question": "a"\n}', r"line 1: broken JSON.*must hold a list of objects"),
        ("rows.json", '[{"question": "a"}, 7]', r"rows.json, row 2: int \(7\) instead of an object"),
        ("rows.jsonl", '{"question": "a"}\n\n"b"\n', r"rows.jsonl, line 3: str \('b'\) instead of an object"),
        ("rows.jsonl", "\n \n", "rows.jsonl: no rows"),
        ("rows.json", "[]", "rows.json: no rows"),
        ("rows.json", "", "rows.json: no rows"),
        ("rows.txt", "question\na\n", r"rows.txt: cannot read .txt; give .json, .jsonl, .csv, .tsv, .parquet"),
        ("rows.csv", "question\n", "rows.csv: no rows"),
        ("rows.csv", "", "rows.csv: no rows"),
        ("rows", "question\na\n", "rows: cannot read files without suffix"),
        ("rows.parquet", "question\na\n", "rows.parquet: not a readable parquet file"),
    ],
)
def test_says_where_a_file_is_broken(write, name, text, complaint):
    with pytest.raises(DataError, match=complaint):
        read_rows(write(name, text))


def test_refuses_other_encodings(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "größer?"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"rows.jsonl: not UTF-8 at byte 16"):
        read_rows(str(path))


def test_refuses_other_folders(tmp_path):
    with pytest.raises(DataError, match=r"not a folder written by datasets.save_to_disk"):
        read_rows(str(tmp_path))


# Columns


def test_takes_a_column():
    assert take(ROWS[0], "question", str, "here") == "Which?"
    assert take(ROWS[0], "tags", list, "here") == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"ask": "a", "reply": "b"}, r"rows.json, row 3: no column 'question'; the columns are 'ask', 'reply'\. Add"),
        ({}, "no column 'question'; the columns are none"),
        ({"question": None}, "rows.json, row 3: column 'question' holds null, not str"),
        ({"question": 7}, r"column 'question' holds int \(7\), not str"),
        ({"question": ["x" * 100]}, r"column 'question' holds list \(\['x+\.\.\.\), not str"),
    ],
)
def test_says_what_is_wrong_with_a_column(row, complaint):
    with pytest.raises(DataError, match=complaint):
        take(row, "question", str, "rows.json, row 3")


# Held-out rows


def test_holds_out_disjoint_ordered_parts():
    rest, first, second = hold_out(range(100), [0.2, 0.05], seed=0)
    assert [len(part) for part in (rest, first, second)] == [75, 20, 5]
    assert sorted(rest + first + second) == list(range(100))
    assert all(part == sorted(part) for part in (rest, first, second))


def test_choice_depends_on_the_seed_alone():
    assert hold_out(range(100), [0.2], seed=0) == hold_out(range(100), [0.2], seed=0)
    assert hold_out(range(100), [0.2], seed=0) != hold_out(range(100), [0.2], seed=1)


def test_no_share_holds_out_nothing():
    assert hold_out(range(3), [0.0], seed=0) == [[0, 1, 2], []]


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [-0.1]])
def test_something_must_be_left(shares):
    with pytest.raises(DataError, match="cannot be held out"):
        hold_out(range(10), shares, seed=0)
