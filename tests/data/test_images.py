"""Rows with images: as parts of the content or by a column of paths; missing and broken ones are refused by row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.data import JsonDataModule
from lightning_sdft.data.images import content_parts, with_images, with_text
from lightning_sdft.errors import DataError
from lightning_sdft.records import Example
from tests.vision.tiny import picture

PLACES: dict[str, Any] = {"image_column": "pictures"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for index in range(3):
        picture(tmp_path / "img" / f"{index}.png", 16, 16)
    return tmp_path


def read(folder: Path, *rows: dict[str, Any], **arguments: Any) -> list[Example]:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return list(JsonDataModule(train=str(file), **arguments).splits.train)


def image(folder: Path, index: int) -> dict[str, str]:
    return {"type": "image", "image": str(folder / "img" / f"{index}.png")}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def test_images_of_a_column_stand_before_the_text(folder: Path) -> None:
    (first, second) = read(
        folder,
        {"prompt": "both?", "response": "yes", "pictures": ["img/0.png", "img/1.png"]},
        {"prompt": "one?", "response": "no", "pictures": "img/2.png"},
        **PLACES,
    )
    assert first.prompt == [{"role": "user", "content": [image(folder, 0), image(folder, 1), text("both?")]}]
    assert second.prompt == [{"role": "user", "content": [image(folder, 2), text("one?")]}]


def test_a_row_without_images_stays_text(folder: Path) -> None:
    rows = read(
        folder,
        {"prompt": "none?", "response": "no", "pictures": None},
        {"prompt": [{"role": "user", "content": [text("a "), text("b")]}], "response": "c", "pictures": []},
        {"prompt": "without?", "response": "yes"},
        **PLACES,
    )
    assert [each.prompt[0]["content"] for each in rows] == ["none?", "a b", "without?"]


def test_parts_of_the_content_are_images_with_a_path_or_from_the_column(folder: Path) -> None:
    system = {"role": "system", "content": "look"}
    parts: list[Any] = [text("left "), {"type": "image", "image": None}, text(" right "), {"type": "image"}]
    (example,) = read(
        folder,
        {
            "messages": [
                system,
                {"role": "user", "content": [{**parts[0], "extra": 1}, {"type": "image"}, *parts[2:]]},
                {"role": "assistant", "content": [text("the "), text("left")]},
            ],
            "pictures": ["img/1.png", "img/0.png"],
        },
        **PLACES,
    )
    content = [text("left "), image(folder, 1), text(" right "), image(folder, 0)]
    assert example.prompt == [system, {"role": "user", "content": content}]
    assert example.demonstration == "the left"

    (given,) = read(
        folder, {"prompt": [{"role": "user", "content": [{"type": "image", "image": "img/2.png"}]}], "response": "x"}
    )
    assert given.prompt[0]["content"] == [image(folder, 2)]


def test_rows_with_other_images_ask_other_questions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "what?", "response": "x", "pictures": f"img/{index}.png"} for index in range(3)]
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "test.jsonl").write_text(json.dumps({**rows[0], "pictures": "img/../img/0.png"}), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        splits = JsonDataModule(train=str(file), test_share=1 / 3, **PLACES).splits
    assert [len(splits.train), len(splits.test[0].examples)] == [2, 1]
    assert "also trained on" not in caplog.text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"pictures": "img/9.png"}, r"rows.jsonl, row 1: there is no image .*9.png'; correct the path"),
        ({"pictures": "img/broken.png"}, r"rows.jsonl, row 1: the image .*broken.png' cannot be read .*replace it"),
        ({"pictures": 7}, r"row 1: an image is given as 7; give the path"),
        ({}, r"rows.jsonl: no row has the column 'pictures' of images; correct data.image_column"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "pictures": ["img/0.png", "img/1.png"]},
            r"row 1: 1 images of the prompt have no path, and the row gives 2; give a path for each",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "video"}]}], "pictures": []},
            r"row 1, turn 1: a part of the content is",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_row(folder: Path, row: dict[str, Any], said: str) -> None:
    (folder / "img" / "broken.png").write_bytes((folder / "img" / "0.png").read_bytes()[:-200])
    with pytest.raises(DataError, match=said):
        read(folder, {"prompt": "what?", "response": "x", **row}, **PLACES)


def test_bad_images_are_bad_rows(folder: Path) -> None:
    rows = [{"prompt": "what?", "response": "x", "pictures": f"img/{index}.png"} for index in (0, 9)]
    assert len(read(folder, *rows, on_bad_row="skip", **PLACES)) == 1


def test_a_demonstration_with_an_image_is_refused(folder: Path) -> None:
    turn = {"role": "assistant", "content": [{"type": "image", "image": "img/0.png"}]}
    with pytest.raises(DataError, match="a demonstration is text, but the turn has an image"):
        read(folder, {"messages": [{"role": "user", "content": "draw"}, turn]})


def test_a_text_follows_what_a_turn_says() -> None:
    assert with_text("a", "b") == "ab"
    assert with_text([{"type": "image"}], "b") == [{"type": "image"}, text("b")]
    assert content_parts([text("a"), text("b")], "") == "ab"
    with pytest.raises(DataError, match="x: 1 images"):
        with_images([{"role": "user", "content": [{"type": "image"}]}], None, Path(), "x")
