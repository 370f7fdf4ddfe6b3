from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from lightning_sdft.data.general import GeneralDataModule
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.errors import DataError


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_prompts_are_conversations_up_to_the_last_user_turn(write: Any) -> None:
    single = [turn("user", "a"), turn("assistant", "b")]
    several = [
        turn("system", "s"),
        turn("user", "a"),
        turn("assistant", "b"),
        turn("user", "c"),
        turn("assistant", "d"),
    ]
    open_ended = [turn("user", "e")]
    rows = [{"messages": single, "id": "x"}, {"messages": several}, {"messages": open_ended}]
    examples = GeneralDataModule(write(rows)).splits.train
    assert [example.prompt for example in examples] == [single[:1], several[:4], open_ended]
    assert [example.id for example in examples] == [f"prompts-{number}" for number in range(1, 4)]
    assert all(example.demonstration is None and example.reference is None for example in examples)


@pytest.mark.parametrize(
    ("row", "arguments"),
    [
        ({"prompt": [turn("user", "a"), turn("assistant", "b")]}, {}),
        ({"prompt": "a", "response": "b"}, {}),
        ({"conversation": [turn("user", "a")]}, {}),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {}),
        ({"prompt": "c", "messages": [turn("user", "a"), turn("assistant", "b")]}, {}),
        ({"question": "a", "answer": "b"}, {}),
        ({"instruction": "a", "input": "", "output": "b"}, {}),
        ({"prompt": "c", "frage": "a"}, {"prompt_column": "frage"}),
    ],
)
def test_rows_are_read_as_people_have_them(
    write: Any, row: dict[str, Any], arguments: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        (example,) = GeneralDataModule(write([row]), **arguments).splits.train  # type: ignore[arg-type]
    assert (example.prompt, example.demonstration) == ([turn("user", "a")], None)
    (said,) = [each.getMessage() for each in caplog.records]
    assert "prompts.jsonl: prompts are " in said
    assert ", no demonstrations" in said


def test_draws_some_and_names_them_by_their_row(write: Any) -> None:
    file = write([{"prompt": f"question {number}"} for number in range(1, 101)])
    drawn = GeneralDataModule(file, prompts=10).splits.train
    assert len(drawn) == 10
    assert all(example.prompt[0]["content"] == f"question {example.id.removeprefix('prompts-')}" for example in drawn)
    assert GeneralDataModule(file, prompts=10).splits.train == drawn
    assert GeneralDataModule(file, prompts=10, sample_seed=1).splits.train != drawn
    assert len(GeneralDataModule(file, prompts=1000).splits.train) == 100


def test_repeated_prompts_are_read_once(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    file = write([{"prompt": text} for text in ("a", "b", "c", "a\n", " b")])
    with caplog.at_level(logging.INFO):
        examples = GeneralDataModule(file).splits.train
    assert [example.id for example in examples] == ["prompts-1", "prompts-2", "prompts-3"]
    assert "left out 2 of 5 prompts that occur before" in caplog.text


def test_a_large_data_set_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    get = datasets.Dataset.__getitem__

    def counting(self: datasets.Dataset, key: Any) -> Any:
        read.append(key)
        return get(self, key)

    rows = [{"messages": [turn("user", f"question {number}"), turn("assistant", "x")]} for number in range(500)]
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(tmp_path / "mixture")
    monkeypatch.setattr(datasets.Dataset, "__getitem__", counting)
    examples = GeneralDataModule(str(tmp_path / "mixture"), prompts=3).splits.train
    assert len(read) == 3
    assert [int(example.id.removeprefix("mixture-")) for example in examples] == [key + 1 for key in read]


def test_evaluates_on_the_sets_of_other_data(write: Any) -> None:
    skills = StringSkillsDataModule("double", train_size=4, validation_size=3, test_size=5, prior_size=2)
    splits = GeneralDataModule(write([{"prompt": "a"}]), evaluation=skills).splits
    assert [example.prompt[0]["content"] for example in splits.train] == ["a"]
    assert splits.validation == skills.splits.validation
    assert splits.test == skills.splits.test
    assert [each.prior for each in splits.validation] == [False] + [True] * 7


def test_other_data_that_cannot_be_read_name_the_setting_below_evaluation(write: Any) -> None:
    data = GeneralDataModule(write([{"prompt": "a"}]), evaluation=JsonDataModule(train="missing.json"))
    with pytest.raises(DataError, match=r"missing\.json: no such file.*given by data\.evaluation\.train$"):
        data.splits  # noqa: B018


TALK, ASKED = {"messages": [turn("user", "a")]}, {"prompt": "a"}


@pytest.mark.parametrize(
    ("good", "row", "complaint"),
    [
        (TALK, {"messages": [turn("system", "s"), turn("assistant", "b")]}, "prompts.jsonl, row 2: no user turn"),
        (TALK, {"messages": []}, "row 2: no user turn"),
        (TALK, {"messages": ["a"]}, "row 2, turn 1: str instead of a message"),
        (TALK, {"messages": [{"role": "user"}]}, "row 2, turn 1: no column 'content'"),
        (ASKED, {"prompt": 3}, "row 2: column 'prompt' holds int"),
        (ASKED, {"text": "a"}, "row 2: no column 'prompt'; the columns are 'text'"),
        (ASKED, TALK, "row 2: no column 'prompt'; the columns are 'messages'"),
        (ASKED, {"prompt": " "}, "the prompt is empty"),
    ],
)
def test_bad_rows_are_refused_or_skipped(write: Any, good: dict[str, Any], row: dict[str, Any], complaint: str) -> None:
    last = {"prompt": "b"} if good is ASKED else {"messages": [turn("user", "b")]}
    file = write([good, row, last])
    with pytest.raises(DataError, match=complaint):
        GeneralDataModule(file).splits  # noqa: B018
    assert len(GeneralDataModule(file, on_bad_row="skip").splits.train) == 2


def test_unknown_columns_are_refused_and_the_setting_is_named(write: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"prompts.jsonl: no column of prompts is known: the columns are 'text'.* data\.p"
    ):
        GeneralDataModule(write([{"text": "a"}])).splits  # noqa: B018
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"broken.jsonl, line 1: broken JSON"):
        GeneralDataModule(str(tmp_path / "broken.jsonl")).splits  # noqa: B018


def test_without_the_hub_the_error_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"allenai/tulu-3-sft-mixture: .*no network.* by data.source"):
        GeneralDataModule().splits  # noqa: B018
