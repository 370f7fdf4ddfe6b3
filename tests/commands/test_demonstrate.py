"""The command that makes demonstrations, with a real HTTP server on loopback."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from jsonargparse import auto_cli

from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, ScienceDataModule
from lightning_sdft.errors import DataError
from lightning_sdft.grading.tool_use import PublishedToolUse
from tests.chat.server import Answer, ChatServer, says, serving
from tests.commands.conftest import KEY, endpoint, number, published, read_lines, solution, user_turn


def test_keeps_the_first_right_sample_of_each_question(
    server: ChatServer, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "made" / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))

    splits = ScienceDataModule(train=train).splits
    trained = {example.id: example for example in splits.train}
    rows = read_lines(output)
    assert [row["id"] for row in rows] == list(trained)
    for row in rows:
        example = trained[row["id"]]
        n = number(example.prompt[-1]["content"])
        assert row["prompt"] == example.prompt
        assert row["prompt"][0]["content"] == SCIENCE_SYSTEM_PROMPT
        assert row["reference"] == KEY[n % 4]
        assert row["response"] == solution(KEY[n % 4], f"try {n % 5 + 1} of {n}")
    # nobody is asked once more than needed, and held-out questions not at all
    numbers = [number(example.prompt[-1]["content"]) for example in splits.train]
    assert server.asked == {user_turn(n): n % 5 + 1 for n in numbers}
    assert len(read_lines(output.with_suffix(".journal.jsonl"))) == len(server.requests)
    assert len(rows) == 30
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "demos.journal.jsonl",
        "demos.jsonl",
        "demos.test.jsonl",
        "demos.validation.jsonl",
    ]
    printed = capsys.readouterr().out
    assert "demonstrations for 30 of 30 training questions" in printed
    for tries, count in Counter(n % 5 + 1 for n in numbers).items():
        assert f"right at sample {tries}: {count}\n" in printed
    assert "never right" not in printed


def test_a_letter_alone_is_right_and_no_demonstration(train: str, tmp_path: Path) -> None:
    """The published scorer accepts it, and learning from it would teach nothing."""

    def bare_at_first(prompt: str, before: int) -> Answer:
        letter = KEY[number(prompt) % 4]
        return says(letter if before == 0 else solution(letter))

    output = tmp_path / "demos.jsonl"
    with serving(bare_at_first) as server:
        demonstrate(ScienceDataModule(train=train), endpoint(server), str(output), samples=2)
    assert {len(row["response"]) for row in read_lines(output)} == {len(solution("A"))}


def test_what_is_written_is_read_back_on_the_same_sides(server: ChatServer, train: str, tmp_path: Path) -> None:
    before = ScienceDataModule(train=train, split_seed=7).splits
    demonstrate(ScienceDataModule(train=train, split_seed=7), endpoint(server), str(tmp_path / "demos.jsonl"))
    files = {
        split: str(tmp_path / name)
        for split, name in (
            ("train", "demos.jsonl"),
            ("validation", "demos.validation.jsonl"),
            ("test", "demos.test.jsonl"),
        )
    }
    after = ScienceDataModule(**files).splits
    assert after.validation[0].examples == before.validation[0].examples
    assert after.test[0].examples == before.test[0].examples
    assert [(each.id, each.prompt, each.reference) for each in after.train] == [
        (each.id, each.prompt, each.reference) for each in before.train
    ]
    assert all(example.demonstration for example in after.train)
    held_out = {
        example.prompt[-1]["content"] for each in (after.validation, after.test) for example in each[0].examples
    }
    assert len(held_out) == 10
    assert not held_out & {example.prompt[-1]["content"] for example in after.train}
    assert not held_out & set(server.asked)

    columns = {"reference_column": "reference", "id_column": "id"}
    others = JsonDataModule(**files, **columns).splits
    assert list(others.train) == list(after.train)
    assert others.test[0].examples == after.test[0].examples


def test_training_questions_that_are_evaluated_are_left_out(
    server: ChatServer, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = tmp_path / "eval.json"
    other_options = published(6) | {"choices": {"text": ["x", "y", "z", "c"], "label": ["A", "B", "C", "D"]}}
    test.write_text(json.dumps([published(3), other_options, published(100)]))
    output = tmp_path / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train, test=str(test)), endpoint(server), str(output))
    trained = {number(row["prompt"][-1]["content"]) for row in read_lines(output)}
    assert trained == set(range(40)) - {3, 6}
    assert set(map(number, server.asked)) == trained
    assert "left out 2 training questions that are also evaluated" in capsys.readouterr().out
    assert len(read_lines(tmp_path / "demos.test.jsonl")) == 3
    assert not (tmp_path / "demos.validation.jsonl").exists()


def test_rows_that_have_a_demonstration_are_not_asked_about(server: ChatServer, tmp_path: Path) -> None:
    rows = [published(n) | ({"response": solution(KEY[n % 4], "own")} if n % 2 else {}) for n in range(20)]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "demos.jsonl"
    data = ScienceDataModule(train=str(tmp_path / "raw.jsonl"))
    demonstrate(data, endpoint(server), str(output))
    written = read_lines(output)
    assert len(written) == len(data.splits.train) == 15
    for row in written:
        assert ("own" in row["response"]) == (number(row["prompt"][-1]["content"]) % 2 == 1)
    assert all(number(prompt) % 2 == 0 for prompt in server.asked)


def test_tool_use_with_its_published_grader(server: ChatServer, tmp_path: Path) -> None:
    golds = [[{"Action": "get", "Action_Input": json.dumps({"n": n})}] for n in range(8)]
    rows = [{"prompt": f"Get number {n}.", "golden_answer": gold} for n, gold in enumerate(golds)]
    (tmp_path / "calls.json").write_text(json.dumps(rows))

    def calls(prompt: str, before: int) -> Answer:
        n = number(prompt)
        return says(f'Thought: hm.\nAction: get\nAction Input: {{"n": {n if before >= n % 3 else -1}}}')

    server.answer = calls
    data = JsonDataModule(
        str(tmp_path / "calls.json"),
        demonstration_column=None,
        reference_column="golden_answer",
        test_share=0.25,
        grader=PublishedToolUse(),
    )
    demonstrate(data, endpoint(server), str(tmp_path / "demos.jsonl"))
    for row in read_lines(tmp_path / "demos.jsonl"):
        n = number(row["prompt"][-1]["content"])
        assert row["response"].endswith(f'{{"n": {n}}}')
        assert row["reference"] == golds[n]
        assert server.asked[row["prompt"][-1]["content"]] == n % 3 + 1
    assert len(read_lines(tmp_path / "demos.jsonl")) == 6


@pytest.mark.parametrize("name", ["demos.jsonl", "demos.validation.jsonl", "demos.test.jsonl"])
def test_never_overwrites_files_of_others(name: str, server: ChatServer, train: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(DataError, match=rf"{name} exists, and not from this command"):
        demonstrate(ScienceDataModule(train=train), endpoint(server), str(tmp_path / "demos.jsonl"))
    assert (tmp_path / name).read_text() == "precious"
    assert not server.requests
    with pytest.raises(DataError, match=r"raw.jsonl exists"):
        demonstrate(ScienceDataModule(train=train), endpoint(server), train)


def test_files_of_an_earlier_split_do_not_stay(server: ChatServer, train: str, tmp_path: Path) -> None:
    output = tmp_path / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    demonstrate(ScienceDataModule(train=train, test_share=0.2, validation_share=0), endpoint(server), str(output))
    assert not (tmp_path / "demos.validation.jsonl").exists()


def test_refuses_settings_that_cannot_work(server: ChatServer, train: str, tmp_path: Path) -> None:
    chat, output = endpoint(server), str(tmp_path / "demos.jsonl")
    with pytest.raises(DataError, match=r"demos.json must end in .jsonl"):
        demonstrate(ScienceDataModule(train=train), chat, output.removesuffix("l"))
    with pytest.raises(DataError, match="no evaluation set with references, so nothing says how to grade"):
        demonstrate(ScienceDataModule(train=train, validation_share=0, test_share=0), chat, output)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Why?"}))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "Who?", "key": "x"}))
    files = {"train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
    with pytest.raises(DataError, match="example 'rows-1' has no reference to grade samples with"):
        demonstrate(JsonDataModule(**files, demonstration_column=None, reference_column="key"), chat, output)
    assert not server.requests


def test_the_command_line_builds_data_and_chat(
    server: ChatServer, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "ScienceDataModule", "--data.train", train, "--chat", "Endpoint", "--chat.model", "gpt-4o"]
    arguments += ["--chat.base_url", server.url, "--output", str(tmp_path / "demos.jsonl"), "--samples", "5"]
    auto_cli(demonstrate, args=arguments, as_positional=False)
    assert len(read_lines(tmp_path / "demos.jsonl")) == 30
    with pytest.raises(SystemExit):
        auto_cli(demonstrate, args=["--help"], as_positional=False)
    assert "How often each question is asked at most" in capsys.readouterr().out
