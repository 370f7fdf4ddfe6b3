"""Science questions in each of their shapes, against prompts written out by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, science_question
from lightning_sdft.errors import DataError
from tests.data.science_rows import (
    DEMONSTRATION,
    SHAPES,
    SYSTEM,
    TEXTS,
    WRITTEN,
    Write,
    choices,
    demonstrated,
    evaluated,
    filling,
    published,
    sdpo,
    trained,
    turns,
    undivided,
    write,
)

__all__ = ["write"]


def test_system_prompt_is_the_published_one_byte_for_byte() -> None:
    assert SCIENCE_SYSTEM_PROMPT.encode() == SYSTEM.encode()


def test_user_turn_is_the_published_one_byte_for_byte() -> None:
    assert science_question("Which gas number 3  burns?", TEXTS) == WRITTEN.format(n=3)
    with pytest.raises(DataError, match=r"3 options instead of four \(A, B, C, D\)"):
        science_question("Which?", TEXTS[:3])


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_becomes_the_same_example(shape: Callable[..., dict[str, Any]], write: Write) -> None:
    example = undivided(write([shape(1), shape(2)]))[1]
    assert example.prompt == turns(2)
    assert example.reference == "A"
    assert example.demonstration == (DEMONSTRATION if shape in (trained, demonstrated) else None)
    assert example.id == ("old-2" if shape is demonstrated else "train-2")
    assert example.context is None


def test_shapes_may_be_mixed_and_saved_with_nulls(write: Write, tmp_path: Path) -> None:
    rows = [shape(n) for n, shape in enumerate(SHAPES)]
    assert [example.prompt for example in undivided(write(rows))] == [turns(n) for n in range(5)]
    # a table has every column in every row
    table = datasets.Dataset.from_list([demonstrated(1), demonstrated(2, response=None)])
    table.save_to_disk(str(tmp_path / "saved"))
    assert [example.demonstration for example in undivided(str(tmp_path / "saved"))] == [DEMONSTRATION, None]


def test_rows_may_bring_demonstrations_of_their_own(write: Write) -> None:
    rows = [published(1, output_text=DEMONSTRATION), sdpo(2, response=DEMONSTRATION)]
    assert [example.demonstration for example in undivided(write(rows))] == [DEMONSTRATION] * 2


def test_only_the_closing_request_of_sdpo_is_removed(write: Write) -> None:
    request = "\nPlease reason step by step."
    inner = WRITTEN.replace("burns?", f"burns?{request}").format(n=1)
    (example,) = undivided(write([sdpo(1, prompt=inner + request)]))
    assert example.prompt[-1]["content"] == inner
    assert undivided(write([sdpo(1, prompt=inner)]))[0].prompt[-1]["content"] == inner


def test_other_types_and_levels_are_left_out_and_counted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    levels = [published(n, details={"level": level}) for n, level in enumerate(["L1", "L-3", "L3", "L5"])]
    file = write([filling(7), *levels, published(9, type="mcq-2-choices", choices={"text": ["a"], "label": ["A"]})])
    with caplog.at_level(logging.INFO, logger="lightning_sdft.data.row_module"):
        assert [example.id for example in undivided(file)] == ["train-3", "train-4"]
    assert "left out 4 of 6 rows" in caplog.text
    assert [example.id for example in undivided(file, level="L-1")] == ["train-2"]
    with pytest.raises(DataError, match="all 2 rows are of another kind than ScienceDataModule reads"):
        undivided(write([filling(1), filling(2)]))


def test_other_rows_are_no_bad_rows(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write([filling(1), published(2), published(3, answerKey="E"), published(4)])
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
        assert [example.id for example in undivided(file, on_bad_row="skip")] == ["train-2", "train-4"]
    assert "left out 1 of 4 rows" in caplog.text
    assert "row 3: the answer 'E' is none of A, B, C, D" in caplog.text


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (published(2, question=7), "row 2: column 'question' holds int"),
        (published(2, question=" "), "row 2: column 'question' is empty"),
        ({key: value for key, value in published(2).items() if key != "question"}, "row 2: no column 'question'"),
        ({key: value for key, value in published(2).items() if key != "answerKey"}, None),
        ({key: value for key, value in published(2).items() if key != "type"}, "row 2: no column 'type'"),
        ({key: value for key, value in published(2).items() if key != "details"}, "row 2: no column 'details'"),
        (published(2, details={}), "row 2, 'details': no column 'level'"),
        (published(2, answerKey="E"), "row 2: the answer 'E' is none of A, B, C, D"),
        (published(2, answerKey="a"), "row 2: the answer 'a' is none"),
        (published(2, answerKey=""), "row 2: the answer '' is none"),
        (published(2, answerKey=None), "row 2: column 'answerKey' holds null"),
        (published(2, choices="A"), "row 2: column 'choices' holds str"),
        (published(2, choices={"text": TEXTS}), "row 2, 'choices': no column 'label'"),
        (published(2, choices=choices(TEXTS[:3], ["A", "B", "C"])), "row 2: 3 options with the labels"),
        (published(2, choices=choices([*TEXTS, "x"])), "row 2: 5 options with the labels"),
        (published(2, choices=choices(TEXTS, ["1", "2", "3", "4"])), "row 2: 4 options with the labels"),
        (published(2, choices=choices([*TEXTS[:3], ""])), "row 2: an option of .* is empty or no text"),
        (published(2, choices=choices([*TEXTS[:3], 4])), "row 2: an option of .* is empty or no text"),
        (trained(2, output_text=""), "row 2: column 'output_text' is empty"),
        (trained(2, output_text=None), "row 2: column 'output_text' holds null"),
        (trained(2, output_text=["A"]), "row 2: column 'output_text' holds list"),
        ({"messages": turns(2)}, "row 2: no column 'output_text'"),
        (trained(2, output_text="Hydrogen, of course."), "row 2: the answer 'Hydrogen, of course.' is none"),
        (trained(2, messages="Which?"), "row 2: no column 'system'"),
        (trained(2, messages=[]), "row 2: the question has no option A"),
        (trained(2, messages=["Which?"]), "row 2, turn 1: str instead of a message"),
        (trained(2, messages=[{"role": "user"}]), "row 2, turn 1: no column 'content'"),
        (
            trained(2, messages=[*turns(2), {"role": "assistant", "content": WRITTEN}]),
            "row 2: example 'train-2': the c",
        ),
        (evaluated(2, answer="E"), "row 2: the answer 'E' is none"),
        (evaluated(2, answer=1), "row 2: column 'answer' holds int"),
        ({"prompt": turns(2)}, "row 2: no column 'answer'"),
        ({"answer": "A"}, "row 2: no column 'prompt'"),
        (evaluated(2, prompt=None), "row 2: column 'prompt' holds null"),
        (sdpo(2, prompt="Which?\n\nA: a\nB: b\nC: c"), "row 2: the question has no option D"),
        (sdpo(2, prompt="Which?\n\nA: a\nC: c\nB: b\nD: d"), "row 2: the question has no option C"),
        (sdpo(2, prompt="Which?\nA: a\nB: b\nC: c\nD: d"), "row 2: the question has no option A"),
        (sdpo(2, system=None), "row 2: column 'system' holds null"),
        (sdpo(2, answer=""), "row 2: the answer '' is none"),
        (demonstrated(2, response=" "), "row 2: column 'response' is empty"),
        (demonstrated(2, reference="Z"), "row 2: the answer 'Z' is none"),
        (demonstrated(2, id=2), "row 2: column 'id' holds int"),
    ],
)
def test_bad_rows_are_named_or_skipped(
    row: dict[str, Any], complaint: str | None, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = write([published(1), row, published(3)])
    with pytest.raises(DataError, match=f"train.json, {complaint or 'row 2: '}"):
        undivided(file)
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
        assert [example.id for example in undivided(file, on_bad_row="skip")] == ["train-1", "train-3"]
    assert "left out 1 of 3 rows" in caplog.text
