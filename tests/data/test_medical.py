from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.medical import MedicalDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.grading.judge import Judge, JudgedAnswer
from tests.chat.server import says, serving

EVALUATED = {"test_questions": 5, "validation_questions": 3}


@pytest.fixture
def judge() -> Judge:
    """Nobody is asked in loading."""
    return Judge(Endpoint("nobody", "http://127.0.0.1:9/v1"), "medical")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    train = [
        {"Question": f"What helps against cold {n}?", "Complex_CoT": "Hm.", "Response": f"Tea number {n}."}
        for n in range(6)
    ]
    test = [
        {"Open-ended Verifiable Question": f"What causes rash {n}?", "Ground-True Answer": f"Virus {n}"}
        for n in range(12)
    ]
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return {name: str(tmp_path / f"{name}.json") for name in ("train", "test")}


def change(file: str, number: int, **columns: Any) -> None:
    rows = json.loads(Path(file).read_text())
    rows[number - 1].update(columns)
    Path(file).write_text(json.dumps(rows))


def test_the_demonstration_is_the_response_alone(files: dict[str, str], judge: Judge) -> None:
    example = MedicalDataModule(**files, **EVALUATED, judge=judge).splits.train[1]
    assert example.id == "train-2"
    assert example.prompt == [{"role": "user", "content": "What helps against cold 1?"}]
    assert example.demonstration == "Tea number 1."
    assert example.context is None
    assert example.reference == {"question": "What helps against cold 1?", "answer": "Tea number 1."}


def test_draws_different_problems_for_validation_and_test(files: dict[str, str], judge: Judge) -> None:
    splits = MedicalDataModule(**files, **EVALUATED, judge=judge).splits
    drawn = [{example.id for example in split[0].examples} for split in (splits.validation, splits.test)]
    assert [len(ids) for ids in drawn] == [3, 5]
    assert not drawn[0] & drawn[1]
    again = MedicalDataModule(**files, **EVALUATED, judge=judge).splits
    assert {example.id for example in again.test[0].examples} == drawn[1]
    other = MedicalDataModule(**files, **EVALUATED, judge=judge, split_seed=1).splits
    assert {example.id for example in other.test[0].examples} != drawn[1]
    assert splits.test[0].examples[0].demonstration is None


def test_takes_all_problems(files: dict[str, str], judge: Judge) -> None:
    splits = MedicalDataModule(**files, test_questions=None, validation_questions=2, judge=judge).splits
    assert (len(splits.validation[0].examples), len(splits.test[0].examples)) == (2, 10)
    assert not MedicalDataModule(**files, test_questions=4, validation_questions=0, judge=judge).splits.validation


def test_a_problem_that_occurs_twice_is_asked_once(files: dict[str, str], judge: Judge) -> None:
    change(files["test"], 7, **{"Open-ended Verifiable Question": "What  causes rash 0?\n"})
    splits = MedicalDataModule(**files, test_questions=None, validation_questions=0, judge=judge).splits
    assert [example.id for example in splits.test[0].examples] == [f"test-{n}" for n in range(1, 13) if n != 7]


def test_too_few_problems_are_refused(files: dict[str, str], judge: Judge) -> None:
    with pytest.raises(DataError, match=r"test.json: 12 different questions are too few for data.test_questions=1000"):
        MedicalDataModule(**files, judge=judge).splits  # noqa: B018


@pytest.mark.parametrize("setting", [{"validation_share": 0.1}, {"test_share": 0.1}, {"validation": "x.json"}])
def test_training_rows_are_never_held_out_for_evaluation(files: dict[str, str], setting: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="multiple values"):
        MedicalDataModule(train=files["train"], test=None, **setting)


def test_the_judge_decides(files: dict[str, str]) -> None:
    with serving(lambda prompt, count: says("CORRECT" if "virus 3" in prompt else "INCORRECT")) as server:
        judge = Judge(Endpoint("judge", server.url), "medical")
        sets = MedicalDataModule(**files, test_questions=None, validation_questions=0, judge=judge).splits.test
        grader = sets[0].graders["medical"]
        assert isinstance(grader, JudgedAnswer)
        example = sets[0].examples[3]
        assert grader.grade_all(["a virus 3 infection", "no idea"], [example.reference] * 2) == [True, False]
    prompt = server.requests[0].prompt
    assert "[Medical Question]\nWhat causes rash 3?\n[Reference Answer]\nVirus 3\n[Model Response]\n" in prompt


def test_without_a_judge_nothing_is_graded(files: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"give data.judge .* or train without evaluation by data.test=null"):
        MedicalDataModule(**files)
    splits = MedicalDataModule(train=files["train"], test=None).splits
    assert len(splits.train) == 6
    assert not splits.validation
    assert not splits.test


def test_warns_of_problems_that_are_trained_on(
    files: dict[str, str], judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    change(files["train"], 2, Question="What causes  rash 3?")
    options = {"test_questions": None, "validation_questions": 0}
    with caplog.at_level(logging.WARNING):
        MedicalDataModule(**files, **options, judge=judge).splits  # noqa: B018
    assert "1 of 12 test questions, the first being test-4, are also trained on" in caplog.text
    with caplog.at_level(logging.WARNING):
        MedicalDataModule(**files, test_questions=0, validation_questions=12, judge=judge).splits  # noqa: B018
    assert "1 of 12 validation questions, the first being test-4, are also trained on" in caplog.text


@pytest.mark.parametrize(
    ("file", "columns", "complaint"),
    [
        ("train", {"Response": ""}, "train.json, row 2: column 'Response' is empty"),
        ("train", {"Response": None}, "train.json, row 2: column 'Response' holds null"),
        ("train", {"Question": " "}, "train.json, row 2: .*prompt is empty"),
        ("test", {"Ground-True Answer": " \n"}, "test.json, row 2: column 'Ground-True Answer' is empty"),
        ("test", {"Open-ended Verifiable Question": 3}, "test.json, row 2: column 'Open-ended .* holds int"),
    ],
)
def test_bad_rows_are_refused_or_skipped(
    files: dict[str, str],
    judge: Judge,
    caplog: pytest.LogCaptureFixture,
    file: str,
    columns: dict[str, Any],
    complaint: str,
) -> None:
    change(files[file], 2, **columns)
    options = {**files, "test_questions": None, "validation_questions": 0, "judge": judge}
    with pytest.raises(DataError, match=complaint):
        MedicalDataModule(**options).splits  # noqa: B018
    splits = MedicalDataModule(**options, on_bad_row="skip").splits
    sizes = {"train": len(splits.train), "test": len(splits.test[0].examples)}
    assert sizes == {"train": 6, "test": 12} | {file: 5 if file == "train" else 11}
    assert "left out 1 of" in caplog.text


def test_rows_of_the_other_file_say_which_columns_are_missing(files: dict[str, str], judge: Judge) -> None:
    with pytest.raises(DataError, match=r"no column 'Question'; the columns are 'Open-ended Verifiable Question'"):
        MedicalDataModule(train=files["test"], test=files["test"], judge=judge).splits  # noqa: B018


def test_the_command_line_builds_it_with_its_judge(files: dict[str, str]) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DemonstrationDataModule, "data")
    judge = {"class_path": "lightning_sdft.grading.judge.Judge"}
    judge["init_args"] = {
        "chat": {"class_path": "lightning_sdft.chat.endpoint.Endpoint", "init_args": {"model": "gpt-5-mini"}},
        "prompt": "medical",
    }
    path = "lightning_sdft.data.medical.MedicalDataModule"
    config = {"class_path": path, "init_args": {**files, **EVALUATED, "judge": judge, "batch_size": 2}}
    data = parser.instantiate_classes(parser.parse_object({"data": config})).data
    assert len(data.splits.test[0].examples) == 5
    assert "judge" not in data.hparams  # a checkpoint is data


@pytest.mark.real
def test_reads_the_real_file_for_both_roles(real_data: Path, judge: Judge) -> None:
    file = str(real_data / "medical" / "huatuo_demo.json")
    splits = MedicalDataModule(file, file, test_questions=100, validation_questions=20, judge=judge).splits
    assert (len(splits.train), len(splits.validation[0].examples), len(splits.test[0].examples)) == (198, 20, 100)
    assert all(example.demonstration for example in splits.train)
