import json
import logging
import random
from pathlib import Path

import datasets
import pytest

from lightning_sdft.data.row_module import Part, RowDataModule, parse_rows
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.tables import take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.records import Example

LOGGER = "lightning_sdft.data"


class Sums(RowDataModule):
    """Rows of a sum and its value; rows of another kind have a remark instead, and some hold several sums."""

    def parts(self, row, where, trained):
        if "sums" not in row:
            return super().parts(row, where, trained)
        sums = take(row, "sums", list, where)
        return [Part(each, f", sum {index}", f"-{index}") for index, each in enumerate(sums, start=1)]

    def example(self, row, where, name, trained):
        if "remark" in row:
            return None
        value = take(row, "value", int, where)
        if value < 0:
            raise DataError("the value is negative")
        prompt = [{"role": "user", "content": take(row, "sum", str, where)}]
        return Example(name, prompt, str(value) if trained else None, reference=value)

    def evaluation_set(self, examples, split):
        return EvaluationSet(examples, {"sums": ExactMatch()})


def row(number):
    return {"sum": f"What is {number} + {number}?", "value": 2 * number}


@pytest.fixture
def write(tmp_path):
    def write(rows, name="sums.json"):
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return str(path)

    return write


def ids(examples):
    return [example.id for example in examples]


def asked(examples):
    return {" ".join(example.prompt[-1]["content"].split()) for example in examples}


# Splits


def test_reads_each_split_from_its_source(write):
    train, validation, test = write([row(1), row(2)]), write([row(3)], "dev.json"), write([row(4)], "test.json")
    splits = Sums(train, validation, test).splits
    assert ids(splits.train) == ["sums-1", "sums-2"]
    assert [example.demonstration for example in splits.train] == ["2", "4"]
    for (evaluation_set,), name, value in ((splits.validation, "dev-1", 6), (splits.test, "test-1", 8)):
        assert ids(evaluation_set.examples) == [name]
        assert evaluation_set.examples[0].reference == value
        assert evaluation_set.examples[0].demonstration is None
    assert not any((Sums().splits.train, Sums().splits.validation, Sums().splits.test))


def test_takes_each_split_of_a_saved_dictionary(tmp_path):
    folder = str(tmp_path / "saved")
    rows = {"train": [row(1)], "validation": [row(2)], "test": [row(3)]}
    datasets.DatasetDict({key: datasets.Dataset.from_list(each) for key, each in rows.items()}).save_to_disk(folder)
    splits = Sums(folder, folder, folder).splits
    values = [part[0].reference for part in (splits.train, splits.validation[0].examples, splits.test[0].examples)]
    assert values == [2, 4, 6]


def test_a_question_is_never_on_both_sides(write):
    numbers = [number for number in range(20) for _ in range(1 + number % 4)]
    random.Random(0).shuffle(numbers)
    rows = [row(number) for number in numbers]
    for index in range(0, len(rows), 3):  # the same question, spaced otherwise
        rows[index]["sum"] = "  " + rows[index]["sum"].replace(" ", "\n ") + "\n"
    for seed in range(5):
        splits = Sums(write(rows), validation_share=0.1, test_share=0.3, split_seed=seed).splits
        parts = [splits.train, splits.validation[0].examples, splits.test[0].examples]
        questions = [asked(part) for part in parts]
        assert [len(each) for each in questions] == [12, 2, 6]
        assert len(set.union(*questions)) == 20
        assert sorted(ids([example for part in parts for example in part])) == sorted(
            f"sums-{number}" for number in range(1, len(rows) + 1)
        )
        for part in parts:
            assert ids(part) == sorted(ids(part), key=lambda name: int(name.removeprefix("sums-")))


def test_shares_depend_on_the_seed_alone(write):
    file = write([row(number) for number in range(30)])

    def held_out(seed):
        return ids(Sums(file, test_share=0.2, split_seed=seed).splits.test[0].examples)

    assert held_out(0) == held_out(0)
    assert len({tuple(held_out(seed)) for seed in range(5)}) > 1


def test_the_questions_of_a_subclass_decide(write):
    class ByValue(Sums):
        def question(self, example):
            return str(example.reference)

    rows = [{"sum": f"{number} + {12 - number}", "value": 12 if number % 2 else 0} for number in range(12)]
    splits = ByValue(write(rows), test_share=0.5).splits
    trained = {example.reference for example in splits.train}
    tested = {example.reference for example in splits.test[0].examples}
    assert (len(splits.train), len(trained), len(tested)) == (6, 1, 1)
    assert trained != tested


def test_warns_of_questions_on_both_sides(write, caplog):
    train = write([row(1), row(2)])
    again = row(2) | {"sum": " What is 2  + 2?\n"}
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        _ = Sums(train, validation=write([row(3), again], "dev.json"), test=write([row(4)], "test.json")).splits
    (record,) = caplog.records
    assert "1 of 2 validation questions, the first being dev-2, are also trained on" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        _ = Sums(write([row(number) for number in (1, 1, 2, 2, 3, 3)]), test_share=0.34).splits
    assert not caplog.records


@pytest.mark.parametrize("split", ["validation", "test"])
def test_refuses_arguments_that_contradict(split):
    with pytest.raises(DataError, match=rf"data.{split} and data.{split}_share=0.1 exclude each other"):
        Sums(train="a.json", **{split: "b.json", f"{split}_share": 0.1})
    with pytest.raises(DataError, match=rf"data.{split}_share=0.1 is a share of data.train; give data.train"):
        Sums(**{f"{split}_share": 0.1})


# Sources


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_file_is_named_with_its_argument(split):
    with pytest.raises(DataError, match=rf"gone.json: no such file or folder.*given by data.{split}$"):
        _ = Sums(**{split: "gone.json"}).splits


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_without_the_hub_the_error_says_which_argument_takes_a_file(monkeypatch, split):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/sums' on the Hub (offline mode)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=rf"owner/sums: neither .*offline mode.*give its file or folder by data.{split}$"
    ):
        _ = Sums(**{split: "owner/sums"}).splits


# Bad rows

BAD = {"sum": "What is half of 3?", "value": 1.5}
NEGATIVE = {"sum": "What is 1 - 2?", "value": -1}
OTHER = {"remark": "Sums of three follow."}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (BAD, r"column 'value' holds float \(1.5\), not int"),
        ({"sum": "What?"}, "no column 'value'; the columns are 'sum'"),
        (NEGATIVE, "the value is negative"),
        (row(1) | {"sum": " "}, "example 'sums-3': the prompt is empty"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_row_is_an_error_that_names_it_and_the_setting(write, bad, complaint, split):
    file = write([row(1), OTHER, bad, row(2)])
    with pytest.raises(DataError, match=rf"sums.json, row 3: {complaint}.*\(data.on_bad_row=skip") as raised:
        _ = Sums(**{split: file}).splits
    assert str(raised.value).count("row 3") == 1


def test_bad_rows_are_left_out_and_counted(write, caplog):
    file = write([row(1), BAD, row(2), NEGATIVE, row(3)])
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        splits = Sums(file, on_bad_row="skip").splits
    assert [(example.id, example.reference) for example in splits.train] == [
        ("sums-1", 2),
        ("sums-3", 4),
        ("sums-5", 6),
    ]
    (record,) = caplog.records
    assert "left out 2 of 5 rows (data.on_bad_row=skip); the first: " in record.getMessage()
    assert "sums.json, row 2: column 'value' holds float" in record.getMessage()


def test_good_rows_are_read_without_a_word(write, caplog):
    with caplog.at_level(logging.INFO, logger=LOGGER):
        _ = Sums(write([row(1), row(2)]), on_bad_row="skip").splits
    assert not caplog.records


def test_nothing_but_bad_rows_is_an_error(write):
    with pytest.raises(DataError, match=r"sums.json: all 2 rows are bad; the first: .*sums.json, row 1: column"):
        _ = Sums(write([BAD, NEGATIVE]), on_bad_row="skip").splits


def test_rows_of_another_kind_are_left_out_and_counted(write, caplog):
    with caplog.at_level(logging.INFO, logger=LOGGER):
        splits = Sums(write([OTHER, row(1), OTHER, row(2)])).splits
    assert ids(splits.train) == ["sums-2", "sums-4"]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "sums.json: left out 2 of 4 rows, which are of another kind" in record.getMessage()
    with pytest.raises(DataError, match=r"sums.json: all 2 rows are of another kind than Sums reads"):
        _ = Sums(write([OTHER, OTHER])).splits


def test_numbers_of_drawn_rows_are_those_of_the_source():
    rows = [row(number) for number in range(1, 6)]
    seen = parse_rows([rows[1], rows[4]], "sums.json", lambda *given: given, "error", numbers=[2, 5])
    assert seen == [(rows[1], "sums.json, row 2", 2), (rows[4], "sums.json, row 5", 5)]


# Rows that hold several


def test_rows_of_rows_are_read_one_by_one(write, caplog):
    file = write([row(1), {"sums": [row(2), OTHER, row(3)]}, {"sums": []}, {"sums": [row(4)]}])
    with caplog.at_level(logging.INFO, logger=LOGGER):
        examples = Sums(file).splits.train
    assert [(example.id, example.reference) for example in examples] == [
        ("sums-1", 2),
        ("sums-2-1", 4),
        ("sums-2-3", 6),
        ("sums-4-1", 8),
    ]
    assert "left out 1 of 5 rows, which are of another kind" in caplog.text


def test_a_bad_part_is_named_and_only_the_part_is_left_out(write, caplog):
    file = write([{"sums": [row(1), NEGATIVE, row(2)]}, {"sums": 7}, row(3)])
    with pytest.raises(DataError, match=r"sums.json, row 2: column 'sums' holds int"):
        _ = Sums(file).splits
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        examples = Sums(file, on_bad_row="skip").splits.train
    assert ids(examples) == ["sums-1-1", "sums-1-3", "sums-3"]
    whole, part = [record.getMessage() for record in caplog.records]
    assert "left out 1 of 3 rows" in whole
    assert "left out 1 of 4 rows" in part
    assert f"{Path(file).name}, row 1, sum 2: the value is negative" in part
