"""Files as people have them, read without renaming anything."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.errors import DataError

Write = Callable[..., str]

ASKED = [{"role": "user", "content": "Add 2 and 3."}]
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [SYSTEM, *ASKED, {"role": "assistant", "content": "4."}, {"role": "user", "content": "Sure?"}]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: dict[str, Any], name: str = "own.jsonl") -> str:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Add 2 and 3.", "response": "5."}, ASKED),
        ({"prompt": "Add 2 and 3.", "completion": "5."}, ASKED),
        ({"prompt": ASKED, "completion": [{"role": "assistant", "content": "5."}]}, ASKED),
        ({"question": "Add 2 and 3.", "answer": "5."}, ASKED),
        ({"instruction": "Add 2 and 3.", "input": "", "output": "5."}, ASKED),
        ({"instruction": "Add.", "input": "2, 3\n", "output": "5."}, [{"role": "user", "content": "Add.\n\n2, 3"}]),
        ({"messages": [*ASKED, {"role": "assistant", "content": "5."}]}, ASKED),
        ({"messages": [*TALK, {"role": "assistant", "content": "5."}]}, TALK),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Add 2 and 3."},
                    {"from": "gpt", "value": "5."},
                ]
            },
            [SYSTEM, *ASKED],
        ),
        ({"system_prompt": "Be brief.", "question": "Add 2 and 3.", "response": "5."}, [SYSTEM, *ASKED]),
        ({"system": None, "question": "Add 2 and 3.", "answer": "5."}, ASKED),
    ],
)
def test_rows_are_read_as_people_have_them(write: Write, row: dict[str, Any], prompt: list[Any]) -> None:
    (example,) = JsonDataModule(write(row)).splits.train
    assert (example.prompt, example.demonstration) == (prompt, "5.")


def test_what_is_taken_for_what_is_said_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    row = {"id": 7, "question": "?", "answer": "!", "key": 1}
    train, same = write(row), write({**row, "question": "??"}, name="test.jsonl")
    asked = write({"question": "???", "key": 1}, name="validation.jsonl")
    with caplog.at_level(logging.INFO):
        JsonDataModule(train, validation=asked, test=same, reference_column="key").splits  # noqa: B018
    (record,) = caplog.records
    assert record.getMessage() == f"{train}: prompts are 'question', demonstrations are 'answer'; not used: 'id'"


def test_what_is_learned_may_be_what_is_compared_with(write: Write) -> None:
    (example,) = JsonDataModule(write({"question": "?", "answer": "!"}), reference_column="answer").splits.train
    assert example.demonstration == example.reference == "!"


def test_each_file_may_have_a_layout_of_its_own(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train = write({"prompt": "?", "response": "!"})
    test = write({"question": "??", "answer": "!!"}, {"question": "???", "answer": "!!!"}, name="test.jsonl")
    prior = write({"messages": ASKED, "answer": "5"}, name="prior.jsonl")
    with caplog.at_level(logging.INFO):
        splits = JsonDataModule(train, test=test, prior=prior, reference_column="answer").splits
    new, old = splits.test
    assert [(each.prompt[0]["content"], each.demonstration, each.reference) for each in new.examples] == [
        ("??", None, "!!"),
        ("???", None, "!!!"),
    ]
    assert [(each.prompt, each.reference) for each in old.examples] == [(ASKED, "5")]
    assert [record.getMessage().rpartition("/")[2] for record in caplog.records] == [
        "own.jsonl: prompts are 'prompt', demonstrations are 'response'",
        "test.jsonl: prompts are 'question', no demonstrations",
        "prior.jsonl: prompts are the turns of 'messages', demonstrations the last of them",
    ]


def test_rows_that_are_not_trained_on_may_end_with_a_user_turn(write: Write) -> None:
    rows = [{"messages": [*ASKED, {"role": "assistant", "content": "5."}], "key": "5"}, {"messages": TALK, "key": "5"}]
    (tested,) = JsonDataModule(test=write(*rows), reference_column="key").splits.test
    assert [(each.prompt, each.demonstration) for each in tested.examples] == [(ASKED, "5."), (TALK, None)]


def test_conversations_without_demonstrations_are_read_up_to_the_last_user_turn(write: Write) -> None:
    row = {"messages": [*ASKED, {"role": "assistant", "content": "5."}]}
    (example,) = JsonDataModule(write(row), demonstration_column=None).splits.train
    assert (example.prompt, example.demonstration) == (ASKED, None)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (({"text": "x"},), "own.jsonl: no layout is known in which the columns are 'text'; looked for prompt/response"),
        (({"prompt": "x", "response": "y", "completion": "z"},), "prompt/completion; set data.demonstration_column"),
    ],
)
def test_other_layouts_are_refused_in_one_line(write: Write, rows: tuple[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        JsonDataModule(write(*rows), on_bad_row="skip").splits  # noqa: B018
    assert "\n" not in str(refused.value)


GOOD = {"messages": [*ASKED, {"role": "assistant", "content": "5."}]}


@pytest.mark.parametrize(
    ("good", "row", "complaint"),
    [
        (GOOD, {"messages": TALK}, ": the last turn is that of 'user', but a demonstration must be the last turn of"),
        (GOOD, {"messages": []}, ": there is no turn"),
        (GOOD, {"messages": "text"}, ": the last turn is that of 'user'"),
        (GOOD, {"prompt": "?", "response": "!"}, ": no column 'messages'; the columns are 'prompt', 'response'"),
        (GOOD, {"messages": [*ASKED, {"role": "assistant", "content": " "}]}, ": column 'messages' is empty"),
        (GOOD, {"messages": [GOOD["messages"][1]]}, ": example 'own-2': the prompt has no messages"),
        (GOOD | {"system": None}, GOOD | {"system": 7}, r": column 'system' holds int \(7\), not str"),
        (
            GOOD | {"system": None},
            {"system": "s", "messages": [SYSTEM, *GOOD["messages"]]},
            ": the conversation has a system turn, and so has column 'system'",
        ),
        (
            {"instruction": "a", "input": "", "output": "b"},
            {"instruction": "a", "input": ["c"], "output": "b"},
            r": column 'input' holds list \(\['c'\]\), not str",
        ),
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": "a", "completion": GOOD["messages"]},
            ", column 'completion': 2 turns instead of one",
        ),
        (
            {"instruction": "a", "input": "", "output": "b"},
            {"instruction": [], "input": "c", "output": "b"},
            ": example 'own-2': the prompt has no messages",
        ),
    ],
)
def test_rows_that_differ_are_bad_rows(write: Write, good: dict[str, Any], row: dict[str, Any], complaint: str) -> None:
    path = write(good, row, good)
    with pytest.raises(DataError, match=rf"own.jsonl, row 2{complaint}.*data.on_bad_row=skip") as refused:
        JsonDataModule(path).splits  # noqa: B018
    assert str(refused.value).count("own.jsonl") == 1
    kept = JsonDataModule(path, on_bad_row="skip").splits.train
    assert [each.id for each in kept] == ["own-1", "own-3"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"prompt_column": "quest"},
            r"data\.prompt_column=quest: there is no such column; did you mean question\?",
        ),
        (
            {"demonstration_column": "answr"},
            r"data\.demonstration_column=answr: .* did you mean answer\?; the columns",
        ),
        ({"prompt_column": "text"}, r"data\.prompt_column=text: there is no such column; the columns are 'question'"),
        ({"context_column": "not"}, r"own\.jsonl, row 1: no column 'not'; did you mean note\?"),
        ({"id_column": "notes"}, r"no column 'notes'; did you mean note\?"),
        ({"reference_column": "answers", "test_share": 0.5}, r"no column 'answers'; did you mean answer\?"),
    ],
)
def test_column_that_is_not_there(write: Write, settings: dict[str, Any], said: str) -> None:
    rows = [{"question": f"{number}?", "answer": f"{number}.", "note": "-"} for number in range(4)]
    with pytest.raises(DataError, match=said):
        JsonDataModule(write(*rows), **settings).splits  # noqa: B018  # is read when it is first needed
