"""Which science questions are trained on, and which ones asked; and what the real files hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.science import ScienceDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.grading.answer_tag import AnswerFormat, AnswerTag
from tests.data.science_rows import (
    DEMONSTRATION,
    SYSTEM,
    TEXTS,
    Write,
    choices,
    evaluated,
    published,
    sdpo,
    trained,
    undivided,
    write,
)

__all__ = ["write"]


def test_default_shares_are_those_of_the_paper(write: Write) -> None:
    splits = ScienceDataModule(train=write([published(n) for n in range(200)])).splits
    assert [len(splits.train), len(splits.validation[0].examples), len(splits.test[0].examples)] == [150, 10, 40]
    again = ScienceDataModule(train=write([published(n) for n in range(200)])).splits
    assert again.test[0].examples == splits.test[0].examples
    other = ScienceDataModule(train=write([published(n) for n in range(200)]), split_seed=1).splits
    assert other.test[0].examples != splits.test[0].examples


def test_nothing_is_held_out_where_a_file_is_given(write: Write) -> None:
    train, test = write([published(n) for n in range(20)]), write([evaluated(n) for n in range(50, 53)], "test.json")
    splits = ScienceDataModule(train=train, test=test).splits
    assert (len(splits.train), len(splits.validation), len(splits.test[0].examples)) == (20, 0, 3)
    splits = ScienceDataModule(train=train, test=test, validation_share=0.1).splits
    assert (len(splits.train), len(splits.validation[0].examples), len(splits.test[0].examples)) == (18, 2, 3)
    splits = ScienceDataModule(train=train, test_share=0.5).splits
    assert (len(splits.train), len(splits.validation[0].examples), len(splits.test[0].examples)) == (9, 1, 10)
    assert not ScienceDataModule(validation=test).splits.train
    with pytest.raises(DataError, match=r"data.test and data.test_share=0.2 exclude each other"):
        ScienceDataModule(train=train, test=test, test_share=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_no_question_is_on_two_sides(seed: int, write: Write) -> None:
    rows = []
    for n in range(40):  # the same question as it is, spaced otherwise, and with other options
        options = choices([*TEXTS[1:], f"oxygen {n}"])
        rows += [published(n), published(n, question=f"Which gas number  {n}\nburns?"), published(n, choices=options)]
    splits = ScienceDataModule(train=write(rows), split_seed=seed).splits
    sides = [splits.train, splits.validation[0].examples, splits.test[0].examples]
    stems = [{" ".join(each.prompt[-1]["content"].split("\n\nA: ")[0].split()) for each in side} for side in sides]
    assert [len(stem) for stem in stems] == [30, 2, 8]
    assert [len(side) for side in sides] == [90, 6, 24]
    assert len(set.union(*stems)) == 40


def test_warns_of_questions_on_both_sides(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train = write([sdpo(n) for n in range(10, 30)])
    test = write([evaluated(n) for n in range(28, 32)], "eval_data.json")
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = ScienceDataModule(train=train, test=test).splits
    assert "2 of 4 test questions, the first being eval_data-1, are also trained on" in caplog.text
    caplog.clear()
    _ = ScienceDataModule(train=train).splits
    assert not caplog.text


def test_accuracy_leads_and_the_format_rate_is_beside_it(write: Write) -> None:
    (test,) = ScienceDataModule(test=write([evaluated(n) for n in range(4)], "test.json")).splits.test
    assert test.name == "science"
    assert {name: type(grader) for name, grader in test.graders.items()} == {
        "science": AnswerTag,
        "science_format": AnswerFormat,
    }
    responses = [DEMONSTRATION, "A", "<answer>B</answer>", "Helium"]
    for name, rate in (("science", 0.5), ("science_format", 0.5)):
        test.graders[name].update(responses, [example.reference for example in test.examples])
        assert test.graders[name].compute() == rate


def test_the_command_line_knows_all_arguments(write: Write) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    arguments = ["--data=lightning_sdft.data.science.ScienceDataModule", "--data.batch_size=1", "--data.level=L2"]
    arguments += [f"--data.train={write([trained(n) for n in range(20)])}", "--data.on_bad_row=skip"]
    arguments += ["--data.split_seed=3"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert (data.level, data.on_bad_row, data.split_seed, data.test_share) == ("L2", "skip", 3, 0.2)
    assert len(data.train_dataloader()) == 15
    assert len(data.test_dataloader()[0].dataset) == 4


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.real
def test_real_files_in_both_shapes_are_the_same_examples(real_data: Path, tmp_path: Path) -> None:
    prepared = [
        row
        for split in ("train", "test")
        for row in read_lines(real_data / "science_mcq" / f"sdpo_sciknoweval_chemistry_{split}.json")
    ]
    raw = [row for file in sorted((real_data / "sciknoweval_chemistry_l3").glob("*.jsonl")) for row in read_lines(file)]
    both = []
    for name, rows in (("prepared.jsonl", prepared), ("raw.jsonl", raw)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        examples = undivided(str(tmp_path / name))
        assert all(example.prompt[0] == {"role": "system", "content": SYSTEM} for example in examples)
        both.append({example.prompt[-1]["content"]: example.reference for example in examples})
    assert len(raw) == 2400
    assert len(both[0]) == len(both[1]) == 2100
    assert both[0] == both[1]
    expected = {row["prompt"][: -len("\nPlease reason step by step.")]: row["answer"] for row in prepared}
    assert both[0] == expected


@pytest.mark.real
def test_real_questions_are_split_by_question(real_data: Path, tmp_path: Path) -> None:
    raw = [row for file in (real_data / "sciknoweval_chemistry_l3").glob("*.jsonl") for row in read_lines(file)]
    asked = {(row["question"], *row["choices"]["text"]): row for row in raw if row["type"] != "filling"}
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, raw)))
    splits = ScienceDataModule(train=str(tmp_path / "raw.jsonl")).splits
    sides = [splits.train, splits.validation[0].examples, splits.test[0].examples]
    assert sum(map(len, sides)) == len(asked) == 2100
    stems = [{example.prompt[-1]["content"].split("\n\nA: ")[0] for example in side} for side in sides]
    assert sum(map(len, stems)) == len(set.union(*stems)) == len({row["question"] for row in asked.values()}) == 2095


@pytest.mark.real
def test_contamination_of_real_files_is_warned_of(
    real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = [row for file in (real_data / "sciknoweval_chemistry_l3").glob("*.jsonl") for row in read_lines(file)]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, raw)))
    folder = real_data / "science_mcq"
    train, test = (str(folder / f"sdpo_sciknoweval_chemistry_{split}.json") for split in ("train", "test"))
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = ScienceDataModule(train=str(tmp_path / "raw.jsonl"), test=test).splits
    assert "210 of 210 test questions" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = ScienceDataModule(train=train, test=test).splits
    assert not caplog.text
