from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from datasets import Dataset

from lightning_sdft.data.articles import passages, read_articles
from lightning_sdft.data.knowledge import KnowledgeDataModule
from lightning_sdft.errors import DataError
from tests.data.test_knowledge import question_row


def test_reads_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "flood.txt").write_text("The flood\n\nWater came.\n")
    (tmp_path / "Storm 2.md").write_text("\ufeff# The storm\r\n\r\nWind came.", newline="")
    (tmp_path / "notes.pdf").write_bytes(b"\xff")
    assert read_articles(str(tmp_path), "data.articles") == {
        "Storm 2": "# The storm\n\nWind came.",
        "flood": "The flood\n\nWater came.",
    }


def test_reads_rows(tmp_path: Path) -> None:
    rows = [{"article": "a", "text": " One. "}, {"article": "b", "text": "Two."}]
    file, folder = tmp_path / "articles.jsonl", tmp_path / "saved"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Dataset.from_list(rows).save_to_disk(folder)
    for source in (file, folder):
        assert read_articles(str(source), "data.articles") == {"a": "One.", "b": "Two."}


def test_reads_the_articles_of_the_package() -> None:
    assert len(read_articles("zoo/events/articles", "data.articles")) == 10


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.txt": b"x", "b.txt": b" \n"}, r"b.txt: the article is empty"),
        ({"a.txt": b"\xff\xfe"}, r"a.txt: not UTF-8 at byte 0"),
        ({"a.txt": b"x", "a.md": b"y"}, r"a.txt: an earlier article has the same id 'a'"),
        ({"a.pdf": b"x"}, r"not a folder written by datasets.save_to_disk"),
    ],
)
def test_refuses_a_folder_with_a_bad_article(files: dict[str, bytes], complaint: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_articles(str(tmp_path), "data.articles")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"article": "b", "text": "  "}, "row 2: the article is empty"),
        ({"article": "a", "text": "x"}, "row 2: an earlier article has the same id 'a'"),
        ({"article": "b"}, "row 2: no column 'text'"),
        ({"article": 3, "text": "x"}, "row 2: column 'article' holds int"),
        ({"article": "b", "text": "x \ud83d"}, "row 2: its text contains half of a surrogate pair"),
    ],
)
def test_names_a_bad_row(row: dict[str, object], complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "articles.json"
    file.write_text(json.dumps([{"article": "a", "text": "One."}, row]))
    with pytest.raises(DataError, match=f"articles.json, {complaint}"):
        read_articles(str(file), "data.articles")


@pytest.mark.parametrize("argument", ["data.articles", "--articles"])
def test_no_such_source_names_the_setting(argument: str) -> None:
    with pytest.raises(DataError, match=rf"no such file or folder.*given by {argument}$"):
        read_articles("./nowhere", argument)


def random_text(seed: int) -> str:
    source = random.Random(seed)
    return "".join(source.choice(["word", " ", ". ", "\n", "\n\n", "x" * 9, "1.5", "é"]) for _ in range(200))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [1, 2, 7, 50, 5000])
def test_passages_hold_the_whole_text_and_are_short(seed: int, size: int) -> None:
    text = random_text(seed)
    parts = passages(text, size)
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)
    assert len(parts) <= 2 * len(text) / size + 1


def test_passages_end_where_something_ends() -> None:
    text = "Aaaa aaaa. Bbbb.\nCccc\n\nDddd dddd. Eeee eeee eeee. Ffffffffffffffff"
    assert passages(text, 30) == ["Aaaa aaaa. Bbbb.\nCccc\n\n", "Dddd dddd. Eeee eeee eeee. ", "Ffffffffffffffff"]
    assert passages(text, 21) == [
        "Aaaa aaaa. Bbbb.\n",  # the paragraph does not end within 21 characters, the line does
        "Cccc\n\nDddd dddd. ",  # the paragraph ends in the first half
        "Eeee eeee eeee. ",
        "Ffffffffffffffff",
    ]
    assert passages("One two three four", 9) == ["One two ", "three ", "four"]
    assert passages("a" * 10, 4) == ["aaaa", "aaaa", "aa"]
    assert passages("short", 5) == ["short"]


def test_passages_are_training_examples(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {number} of the article." for number in range(9))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("Short.")
    (tmp_path / "q.jsonl").write_text(json.dumps(question_row(1) | {"article": "a"}))
    settings = {"articles": str(tmp_path), "passage_length": 80, "train_on": "articles"}
    splits = KnowledgeDataModule(**settings, test=str(tmp_path / "q.jsonl")).splits
    ids = [example.id for example in splits.train]
    assert ids[:2] == ["a-1", "a-2"]
    assert ids[-1] == "b-1"
    assert "".join(example.demonstration or "" for example in splits.train if example.id.startswith("a-")) == text
    assert len(splits.test) == 1
