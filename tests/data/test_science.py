"""Science questions in each of their shapes, against prompts written out by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, ScienceDataModule, science_question
from lightning_sdft.grading.answer_tag import AnswerFormat, AnswerTag

SYSTEM = "\n".join(
    [
        "",
        "Given a question and four options, please select the right answer. Respond in the following format:",
        "<reasoning>",
        "...",
        "</reasoning>",
        "<answer>",
        "...",
        "</answer>",
        "",
        "For the answer, only output the letter corresponding to the correct option (A, B, C, or D), and nothing else. "
        'Do not restate the answer text. For example, if the answer is "A", just output:',
        "<answer>",
        "A",
        "</answer>",
        "",
    ]
)

TEXTS = ["hydrogen", "helium", "H: a salt", "none"]
WRITTEN = "Which gas number {n}  burns?\n\nA: hydrogen\nB: helium\nC: H: a salt\nD: none"
DEMONSTRATION = "<reasoning>\nIt burns.\n</reasoning>\n<answer>\nA\n</answer>"


def turns(n: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": WRITTEN.format(n=n)}]


def published(n: int, **changes: Any) -> dict[str, Any]:
    """A row of SciKnowEval."""
    row = {
        "prompt": {"default": "Please directly give the answer without any explanation."},
        "question": f"Which gas number {n}  burns?",
        "choices": {"text": TEXTS, "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
        "type": "mcq-4-choices",
        "domain": "Chemistry",
        "details": {"level": "L3", "task": "burning", "subtask": "gas", "source": "us"},
        "answer": "",
    }
    return row | changes


def filling(n: int) -> dict[str, Any]:
    choices = {"text": [], "label": []}
    return published(n, type="filling", choices=choices, answerKey="", answer="2H2 + O2 = 2H2O")


def trained(n: int, **changes: Any) -> dict[str, Any]:
    return {"messages": turns(n), "output_text": DEMONSTRATION} | changes


def evaluated(n: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": turns(n), "answer": "A"} | changes


def sdpo(n: int, **changes: Any) -> dict[str, Any]:
    row = {"idx": n, "kind": "mcq", "dataset": "sciknoweval", "answer": "A", "system": SYSTEM, "tests": "-"}
    return row | {"prompt": WRITTEN.format(n=n) + "\nPlease reason step by step."} | changes


def demonstrated(n: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"old-{n}", "prompt": turns(n), "reference": "A", "response": DEMONSTRATION} | changes


SHAPES = [published, trained, evaluated, sdpo, demonstrated]

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(rows: list[dict[str, Any]], name: str = "train.json") -> str:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    return to_file


def undivided(file: str, **arguments: Any) -> list[Example]:
    return list(ScienceDataModule(train=file, validation_share=0, test_share=0, **arguments).splits.train)


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


def choices(texts: list[Any] = TEXTS, labels: list[Any] | None = None) -> dict[str, Any]:
    return {"text": texts, "label": ["A", "B", "C", "D"] if labels is None else labels}


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
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
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
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
        _ = ScienceDataModule(train=str(tmp_path / "raw.jsonl"), test=test).splits
    assert "210 of 210 test questions" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data.row_module"):
        _ = ScienceDataModule(train=train, test=test).splits
    assert not caplog.text
