import json
import logging
import warnings
from datetime import date, datetime
from decimal import Decimal

import pyarrow
import pytest
from jsonargparse import ArgumentParser
from pyarrow import parquet

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.grading.answer_tag import AnswerFormat
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.grading.number import Number
from lightning_sdft.grading.string_answer import StringAnswer

ROWS = [
    {"prompt": f"How many legs have {n} birds?", "response": f"They have {2 * n}.", "legs": 2 * n, "note": f"note {n}"}
    for n in range(1, 21)
]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="birds.json"):
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return str(path)

    return write


def test_maps_columns(write):
    splits = JsonDataModule(write(ROWS), reference_column="legs", context_column="note").splits
    example = splits.train[2]
    assert example.id == "birds-3"
    assert example.prompt == [{"role": "user", "content": "How many legs have 3 birds?"}]
    assert (example.demonstration, example.reference, example.context) == ("They have 6.", 6, "note 3")
    assert not splits.validation
    assert not splits.test


def test_needs_neither_demonstration_nor_reference(write):
    example = JsonDataModule(write(ROWS), demonstration_column=None).splits.train[0]
    assert (example.demonstration, example.reference, example.context) == (None, None, None)


def test_reads_conversations_and_puts_the_system_turn_first(write):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    file = write([{"prompt": turns, "response": "Gone."}])
    assert JsonDataModule(file).splits.train[0].prompt == turns
    with_system = JsonDataModule(file, system_prompt="Be brief.").splits.train[0].prompt
    assert with_system == [{"role": "system", "content": "Be brief."}, *turns]


def test_refuses_two_system_turns(write):
    turns = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Go"}]
    file = write([{"prompt": turns, "response": "Gone."}])
    assert JsonDataModule(file).splits.train
    with pytest.raises(DataError, match=r"birds.json, row 1: the prompt has a system turn of its own"):
        _ = JsonDataModule(file, system_prompt="Be brief.").splits


def test_takes_ids_from_a_column(write):
    assert JsonDataModule(write(ROWS), id_column="legs").splits.train[4].id == "10"
    with pytest.raises(DataError, match="the train split has 1 id more than once, among them '2'"):
        _ = JsonDataModule(write([*ROWS, ROWS[0]]), id_column="legs").splits


def test_holds_out_shares(write):
    def splits(seed):
        return JsonDataModule(
            write(ROWS), reference_column="legs", validation_share=0.2, test_share=0.1, split_seed=seed, name="birds"
        ).splits

    first = splits(0)
    (validation,), (test,) = first.validation, first.test
    parts = [first.train, validation.examples, test.examples]
    assert [len(part) for part in parts] == [14, 4, 2]
    assert len({example.id for part in parts for example in part}) == 20
    assert validation.name == test.name == "birds"
    assert validation.examples == splits(0).validation[0].examples
    assert validation.examples != splits(1).validation[0].examples


def test_limit_leaves_the_held_out_rows_as_they_are(write):
    arguments = {"reference_column": "legs", "validation_share": 0.2}
    all_rows = JsonDataModule(write(ROWS), **arguments).splits
    limited = JsonDataModule(write(ROWS), limit=3, **arguments).splits
    assert limited.train == all_rows.train[:3]
    assert limited.validation[0].examples == all_rows.validation[0].examples


def test_reads_rows_to_evaluate_without_what_only_training_needs(write):
    bare = [{"prompt": row["prompt"], "legs": row["legs"]} for row in ROWS]
    sources = {"validation": write(bare[:3], "dev.json"), "test": write(ROWS[:2], "test.json")}
    columns = {"reference_column": "legs", "context_column": "note"}
    splits = JsonDataModule(write(ROWS), **sources, **columns, grader=StringAnswer()).splits
    assert len(splits.train) == 20
    assert [example.id for example in splits.validation[0].examples] == ["dev-1", "dev-2", "dev-3"]
    assert [(each.demonstration, each.context) for each in splits.validation[0].examples] == [(None, None)] * 3
    tested = splits.test[0].examples[0]
    assert (tested.demonstration, tested.context) == ("They have 2.", "note 1")
    graders = [each.graders["json"] for each in (*splits.validation, *splits.test)]
    assert all(isinstance(grader, StringAnswer) for grader in graders)
    assert graders[0] is not graders[1]
    with pytest.raises(DataError, match=r"bare.json: no column of demonstrations is known: the columns are 'prompt', "):
        _ = JsonDataModule(write(bare, "bare.json")).splits
    with pytest.raises(DataError, match=r"bare.json, row 1: no column 'note'"):
        _ = JsonDataModule(write(bare, "bare.json"), demonstration_column=None, context_column="note").splits


def test_grades_exactly_by_default(write):
    splits = JsonDataModule(write(ROWS), reference_column="legs", validation_share=0.5).splits
    grader = splits.validation[0].graders["json"]
    assert isinstance(grader, ExactMatch)
    grader.update(["2", "They have 4."], [2, 4])
    assert grader.compute() == 0.5


@pytest.mark.parametrize(
    ("split", "sets"),
    [
        ({"validation_share": 0.2}, [("birds", False, 4), None]),
        ({"test_share": 0.2}, [None, ("birds", False, 4)]),
        ({"validation": "dev.json"}, [("birds", False, 20), None]),
        ({"prior": "fish.json"}, [("fish", True, 20), ("fish", True, 20)]),
    ],
)
def test_without_references_there_is_no_grader(write, split, sets):
    file = write(ROWS)
    others = {name: write(ROWS, value) if isinstance(value, str) else value for name, value in split.items()}
    splits = JsonDataModule(file, name="birds", **others).splits
    for found, expected in zip((splits.validation, splits.test), sets, strict=True):
        assert [(each.name, each.prior, len(each.examples)) for each in found] == [expected] * (expected is not None)
        assert not any(each.graders for each in found)
        assert all(example.demonstration and example.reference is None for each in found for example in each.examples)


def test_a_reference_that_the_grader_cannot_use_is_a_bad_row(write):
    file = write([ROWS[0], ROWS[1] | {"legs": "some"}, ROWS[2]])
    columns = {"reference_column": "legs", "grader": Number()}
    with pytest.raises(
        DataError, match=r"birds.json, row 2: a reference with a number is needed, not 'some' \(data.on_b"
    ):
        _ = JsonDataModule(test=file, **columns).splits
    (tested,) = JsonDataModule(test=file, on_bad_row="skip", **columns).splits.test
    assert [example.id for example in tested.examples] == ["birds-1", "birds-3"]
    assert len(JsonDataModule(file, **columns).splits.train) == 3


def test_a_grader_needs_references_if_it_compares(write):
    with pytest.raises(DataError, match=r"data.grader=StringAnswer compares answers with references; give data.ref"):
        JsonDataModule(write(ROWS), test_share=0.2, grader=StringAnswer())
    (tested,) = JsonDataModule(write(ROWS), test_share=0.2, grader=AnswerFormat()).splits.test
    assert isinstance(tested.graders["json"], AnswerFormat)


def test_needs_a_reference_in_rows_that_may_be_graded_only(write):
    file = write([*ROWS, ROWS[0] | {"legs": None}])
    assert JsonDataModule(file, reference_column="legs").splits.train[-1].reference is None
    with pytest.raises(DataError, match=r"birds.json, row 21: column 'legs' is null; it is to be graded"):
        _ = JsonDataModule(file, reference_column="legs", test_share=0.1).splits
    with pytest.raises(
        DataError,
        match=r"birds.json: no column 'wings'; the columns are 'prompt', .*; correct data.reference_column, or",
    ):
        _ = JsonDataModule(file, reference_column="wings", test_share=0.1).splits
    assert JsonDataModule(file, reference_column="wings").splits.train[0].reference is None


def test_a_source_without_references_is_evaluated_by_its_demonstrations(write, caplog):
    free = [{"prompt": row["prompt"] + "!", "response": row["response"]} for row in ROWS[:3]]
    sources = {"validation": write(free, "dev.json"), "test": write(ROWS[:2], "test.json")}
    with caplog.at_level(logging.INFO):
        splits = JsonDataModule(
            write(ROWS[5:]), prior=write(free, "old.json"), reference_column="legs", **sources
        ).splits
    assert [(each.name, bool(each.graders)) for each in splits.validation] == [("json", False), ("old", False)]
    assert [(each.name, bool(each.graders)) for each in splits.test] == [("json", True), ("old", False)]
    assert "dev.json: no column 'legs'; the columns are 'prompt', 'response'. Its answers are not graded" in caplog.text
    assert "old.json: no column 'legs'" in caplog.text
    assert "test.json: no" not in caplog.text


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"response": "a"}, "row 2: no column 'prompt'; the columns are 'response'"),
        ({"prompt": "a"}, "row 2: no column 'response'"),
        ({"prompt": "a", "response": " "}, "row 2: column 'response' is empty"),
        ({"prompt": "a", "response": ["b"]}, "row 2, column 'response', turn 1: str instead of a message"),
        ({"prompt": "a", "response": 7}, r"row 2: column 'response' holds int \(7\), not str"),
        ({"prompt": "", "response": "a"}, "row 2: example 'birds-2': the prompt is empty"),
        ({"prompt": [], "response": "a"}, "row 2: example 'birds-2': the prompt has no messages"),
        ({"prompt": 7, "response": "a"}, r"row 2: column 'prompt' holds int \(7\), not list"),
        ({"prompt": ["Go"], "response": "a"}, "row 2, turn 1: str instead of a message with role and content"),
        ({"prompt": [{"role": "user"}], "response": "a"}, "row 2, turn 1: no column 'content'"),
    ],
)
def test_names_file_row_and_column_of_a_broken_row(write, row, complaint):
    with pytest.raises(DataError, match=f"birds.json, {complaint}"):
        _ = JsonDataModule(write([ROWS[0], row])).splits


def test_warns_of_questions_on_both_sides(write, caplog):
    validation = write([ROWS[0] | {"prompt": ROWS[4]["prompt"] + "\n"}, ROWS[1] | {"prompt": "Why?"}], "dev.json")
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = JsonDataModule(write(ROWS), reference_column="legs", validation=validation).splits
    assert "1 of 2 validation questions, the first being dev-1, are also trained on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lightning_sdft.data"):
        _ = JsonDataModule(write(ROWS), reference_column="legs", validation=validation, limit=4).splits
    assert not caplog.text


@pytest.mark.parametrize("rows", [{"validation": "dev.json"}, {"prior": "old.json"}])
def test_rows_to_evaluate_need_a_reference(write, rows):
    ((setting, name),) = rows.items()
    file = write([ROWS[0], {"prompt": "Why?"}], name)
    with pytest.raises(DataError, match=rf"{name}, row 2: no column 'legs'"):
        _ = JsonDataModule(write(ROWS), **{setting: file}, reference_column="legs").splits


def test_the_command_line_knows_all_arguments(write):
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    arguments = ["--data=lightning_sdft.data.JsonDataModule", f"--data.train={write(ROWS)}"]
    arguments += ["--data.reference_column=legs", "--data.test_share=0.5", "--data.batch_size=4"]
    arguments += ["--data.grader=lightning_sdft.grading.StringAnswer", "--data.limit=null"]
    datamodule = parser.instantiate(parser.parse_args(arguments)).data
    assert isinstance(datamodule.splits.test[0].graders["json"], StringAnswer)
    assert datamodule.batch_size == 4
    assert "grader" not in datamodule.hparams
    assert datamodule.hparams["train"].endswith("birds.json")


def test_a_grader_is_given_without_a_warning(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JsonDataModule(write(ROWS), reference_column="legs", grader=StringAnswer())


@pytest.mark.real
def test_reads_medical_demonstrations(real_data):
    splits = JsonDataModule(
        str(real_data / "medical" / "huatuo_demo.json"),
        prompt_column="Question",
        demonstration_column="Response",
        reference_column="Ground-True Answer",
        validation_share=0.1,
    ).splits
    assert len(splits.train) + len(splits.validation[0].examples) == 198
    assert all(example.demonstration and example.prompt[0]["content"].strip() for example in splits.train)
    assert all(isinstance(example.reference, str) for example in splits.validation[0].examples)


def test_references_of_a_parquet_file_are_graded_by_their_types(tmp_path):
    references = [42.0, Decimal("0.50"), date(2024, 5, 1), datetime(2024, 5, 1, 9, 30), ["Paris", "Lutetia"]]
    responses = ["42", "0.5", "2024-05-01", "2024-05-01 09:30:00", "Lutetia"]
    for number, (reference, response) in enumerate(zip(references, responses, strict=True)):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pyarrow.table({"prompt": ["?"], "reference": [reference]}), path)
        (graded,) = JsonDataModule(test=str(path), reference_column="reference").splits.test
        assert graded.graders["json"].grade(response, graded.examples[0].reference) is True
        assert graded.graders["json"].grade(response + "1", graded.examples[0].reference) is False


@pytest.mark.parametrize("reference", [None, [], [None], float("nan")])
def test_a_reference_that_holds_nothing_is_refused(write, reference):
    with pytest.raises(DataError, match="row 1: column 'answer' is null"):
        JsonDataModule(test=write([{"prompt": "?", "answer": reference}]), reference_column="answer").load()
