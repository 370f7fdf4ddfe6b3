"""The command that makes demonstrations, with a real HTTP server on loopback and with a real model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import auto_cli

from lightning_sdft.chat.base import ChatError
from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.chat.journal import Journal
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.data.example import DataError
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.science import SCIENCE_SYSTEM_PROMPT, ScienceDataModule
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.grading.tool_use import PublishedToolUse
from tests.chat.server import Answer, ChatServer, fails, says, serving

KEY = "ABCD"


def user_turn(n: int) -> str:
    return f"Is number {n} odd?\n\nA: a\nB: b\nC: c\nD: d"


def published(n: int) -> dict[str, Any]:
    """A row of SciKnowEval whose answer is the number's remainder."""
    return {
        "question": f"Is number {n} odd?",
        "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": KEY[n % 4],
        "type": "mcq-4-choices",
        "details": {"level": "L3"},
    }


def number(prompt: str) -> int:
    (found,) = re.findall(r"number (\d+)", prompt)
    return int(found)


def solution(letter: str, remark: str = "") -> str:
    return f"<reasoning>\n{remark}\n</reasoning>\n<answer>\n{letter}\n</answer>"


def right_at_try(prompt: str, before: int) -> Answer:
    """Question n is answered right at try n mod 5 + 1, and wrong before; each reply says which try it is."""
    n = number(prompt)
    right = before >= n % 5
    return says(solution(KEY[(n if right else n + 1) % 4], f"try {before + 1} of {n}"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(right_at_try) as running:
        yield running


@pytest.fixture
def train(tmp_path: Path) -> str:
    path = tmp_path / "raw.jsonl"
    path.write_text("\n".join(json.dumps(published(n)) for n in range(40)))
    return str(path)


def endpoint(server: ChatServer, **arguments: Any) -> Endpoint:
    return Endpoint(**{"model": "strong", "base_url": server.url, "concurrency": 4, "retries": 0, **arguments})


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


def test_asks_the_open_questions_in_rounds_side_by_side(server: ChatServer, train: str, tmp_path: Path) -> None:
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(tmp_path / "demos.jsonl"))
    asked: Counter[str] = Counter()
    rounds = []
    for request in server.requests:
        asked[request.prompt] += 1
        rounds.append(asked[request.prompt])
    assert rounds == sorted(rounds)
    assert set(rounds) == {1, 2, 3, 4, 5}
    assert server.most_in_flight > 1


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
    others = JsonDataModule(
        files["train"], validation_file=files["validation"], test_file=files["test"], **columns
    ).splits
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


def test_questions_that_are_never_right_are_left_out_and_listed(
    server: ChatServer, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demos.jsonl"
    for times in (1, 2):
        demonstrate(ScienceDataModule(train=train), endpoint(server), str(output), samples=3)
        train_set = ScienceDataModule(train=train).splits.train
        hard = {each.id for each in train_set if number(each.prompt[-1]["content"]) % 5 > 2}
        assert {row["id"] for row in read_lines(output)} == {each.id for each in train_set} - hard
        assert max(server.asked.values()) == 3
        records = read_lines(tmp_path / "demos.journal.jsonl")
        listed = [record for record in records if "never_right" in record]
        assert {record["id"] for record in listed} == hard
        assert {record["never_right"] for record in listed} == {3}
        assert len(listed) == len(hard), f"listed once, also in run {times}"
        assert f"never right in 3 samples, left out, listed in {tmp_path / 'demos.journal.jsonl'}: {len(hard)} (" in (
            capsys.readouterr().out
        )
    # more samples go on where it stopped
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output), samples=4)
    assert max(server.asked.values()) == 4
    assert sum(server.asked.values()) == sum(min(number(each.prompt[-1]["content"]) % 5 + 1, 4) for each in train_set)


def test_a_finished_run_asks_nothing_again(server: ChatServer, train: str, tmp_path: Path) -> None:
    output = tmp_path / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    written, asked = output.read_bytes(), len(server.requests)
    output.unlink()
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    assert output.read_bytes() == written
    assert len(server.requests) == asked


def test_what_was_paid_for_is_looked_at_again_and_the_first_right_one_kept(
    server: ChatServer, train: str, tmp_path: Path
) -> None:
    output, journal = tmp_path / "demos.jsonl", tmp_path / "demos.journal.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    written, asked = output.read_bytes(), len(server.requests)
    for record in Journal(journal).records()[-3:]:  # the last were right
        Journal(journal).append(record | {"response": record["response"].replace("try", "further try")})
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    assert output.read_bytes() == written
    assert len(server.requests) == asked

    # the key was wrong: the first samples of n, for n + 1, were right
    corrected = [published(n) | {"answerKey": KEY[(n + 1) % 4 if n % 5 else n % 4]} for n in range(40)]
    Path(train).write_text("\n".join(map(json.dumps, corrected)))
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    assert all("\ntry 1 of" in row["response"] for row in read_lines(output))
    assert len(read_lines(output)) == 30
    assert len(server.requests) == asked


def test_process_killed_in_the_middle_asks_only_for_the_rest(server: ChatServer, train: str, tmp_path: Path) -> None:
    reached, killed = threading.Event(), threading.Event()

    def stalls_later(prompt: str, before: int) -> Answer:
        if len(server.requests) > 45:  # in the second round
            reached.set()
            killed.wait(60)
        return right_at_try(prompt, before)

    server.answer = stalls_later
    output = tmp_path / "demos.jsonl"
    arguments = ["--data=ScienceDataModule", f"--data.train={train}", "--chat=Endpoint", "--chat.model=strong"]
    arguments += [f"--chat.base_url={server.url}", "--chat.concurrency=4", f"--output={output}"]
    script = (
        "from jsonargparse import auto_cli\n"
        "import lightning_sdft.data.science\n"
        "from lightning_sdft.commands.demonstrate import demonstrate\n"
        f"auto_cli(demonstrate, args={arguments!r}, as_positional=False)"
    )
    journal = tmp_path / "demos.journal.jsonl"
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert reached.wait(60)
        deadline = time.monotonic() + 60
        while server.in_flight < 4 or len(Journal(journal).records()) < len(server.requests) - 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed.set()
    assert not output.exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')  # had it been killed a little later
    assert len(Journal(journal).records()) == len(server.requests) - 4 >= 42

    asked_before = Counter(server.asked)
    kept = Counter(record["id"] for record in Journal(journal).records())
    server.answer = lambda prompt, before: says(solution(KEY[number(prompt) % 4], "again"))
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output))
    examples = ScienceDataModule(train=train).splits.train
    assert [row["id"] for row in read_lines(output)] == [example.id for example in examples]
    for row, example in zip(read_lines(output), examples, strict=True):
        prompt = example.prompt[-1]["content"]
        answered_right = kept[example.id] > number(prompt) % 5
        assert server.asked[prompt] - asked_before[prompt] == (not answered_right)
        assert ("again" in row["response"]) == (not answered_right)
    lost = len(server.requests) - len(Journal(journal).records())
    assert lost == 4, "what was in flight, and nothing else, is paid for twice"


def test_questions_without_reply_are_asked_again_by_the_next_run(
    server: ChatServer, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses_some(prompt: str, before: int) -> Answer:
        return fails(400) if number(prompt) % 2 else says(solution(KEY[number(prompt) % 4]))

    server.answer = refuses_some
    output = tmp_path / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output), samples=2)
    odd = sum(number(each.prompt[-1]["content"]) % 2 for each in ScienceDataModule(train=train).splits.train)
    assert len(read_lines(output)) == 30 - odd
    assert f"replies or verdicts did not come: {odd}; run the command again" in capsys.readouterr().out
    server.answer = lambda prompt, before: says(solution(KEY[number(prompt) % 4]))
    demonstrate(ScienceDataModule(train=train), endpoint(server), str(output), samples=2)
    assert len(read_lines(output)) == 30
    assert len(server.requests) == 30 - odd + 3 * odd


def test_what_came_before_an_error_is_kept(server: ChatServer, train: str, tmp_path: Path) -> None:
    server.answer = lambda prompt, before: right_at_try(prompt, before) if len(server.requests) < 11 else fails(401)
    output = tmp_path / "demos.jsonl"
    with pytest.raises(ChatError, match="refuses"):
        demonstrate(ScienceDataModule(train=train), endpoint(server, concurrency=1), str(output))
    assert len(Journal(tmp_path / "demos.journal.jsonl").records()) == 10
    assert not output.exists()


def test_samples_of_another_model_count_as_right_but_not_as_asked(
    server: ChatServer, train: str, tmp_path: Path
) -> None:
    output = tmp_path / "demos.jsonl"
    demonstrate(ScienceDataModule(train=train), endpoint(server, model="weak"), str(output), samples=2)
    first = {row["id"]: row["response"] for row in read_lines(output)}
    assert 0 < len(first) < 30
    demonstrate(ScienceDataModule(train=train), endpoint(server, model="strong"), str(output), samples=3)
    rows = {row["id"]: row["response"] for row in read_lines(output)}
    assert len(rows) == 30
    assert first.items() <= rows.items()
    models = Counter(request.body["model"] for request in server.requests)
    assert models["strong"] == sum(
        max(number(each.prompt[-1]["content"]) % 5 - 1, 0) for each in ScienceDataModule(train=train).splits.train
    )


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


def test_equal_prompts_share_their_samples(server: ChatServer, tmp_path: Path) -> None:
    rows = [{"prompt": user_turn(n), "key": solution(KEY[n % 4], f"try {n % 5 + 1} of {n}")} for n in (1, 2, 1, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": user_turn(9), "key": "x"}))
    data = JsonDataModule(
        str(tmp_path / "rows.jsonl"),
        demonstration_column=None,
        reference_column="key",
        test_file=str(tmp_path / "test.jsonl"),
    )
    demonstrate(data, endpoint(server), str(tmp_path / "demos.jsonl"))
    assert server.asked == {user_turn(1): 2, user_turn(2): 3}
    written = read_lines(tmp_path / "demos.jsonl")
    assert [row["id"] for row in written] == ["rows-1", "rows-2", "rows-3", "rows-4"]
    assert [row["response"] for row in written] == [row["key"] for row in rows]


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


class Sulking(Grader):
    """A judge that gives no verdict until it is told to."""

    speaks = False

    def grade(self, response: str, reference: Any) -> bool | None:
        return "yes" in response if Sulking.speaks else None


@pytest.mark.parametrize("samples", [1, 3])
def test_ungraded_samples_are_not_wrong_and_not_paid_for_again(
    samples: int,
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"prompt": f"number {n}", "key": 1}) for n in range(8)))
    arguments: dict[str, Any] = {"demonstration_column": None, "reference_column": "key", "test_share": 0.25}
    data = JsonDataModule(str(tmp_path / "rows.jsonl"), grader=Sulking(), **arguments)
    server.answer = lambda prompt, before: says("yes")
    with pytest.raises(DataError, match="no question has a demonstration"):
        demonstrate(data, endpoint(server), str(tmp_path / "demos.jsonl"), samples=samples)
    assert len(server.requests) == 6, "the judge is out of order, so further samples would be wasted"
    printed = capsys.readouterr().out
    assert "verdicts did not come: 6" in printed
    assert "never right" not in printed
    monkeypatch.setattr(Sulking, "speaks", True)
    demonstrate(data, endpoint(server), str(tmp_path / "demos.jsonl"), samples=samples)
    assert len(read_lines(tmp_path / "demos.jsonl")) == len(server.requests) == 6


def skills(tmp_path: Path) -> JsonDataModule:
    """Questions of a skill that the laptop model knows in part."""
    source = StringSkillsDataModule(train_size=64, validation_size=0, test_size=0, prior_size=0)
    rows = [{"prompt": each.prompt, "key": each.reference} for each in source._draw("swap-ends")]
    (tmp_path / "skill.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return JsonDataModule(
        str(tmp_path / "skill.jsonl"),
        demonstration_column=None,
        reference_column="key",
        test_share=0.25,
        grader=StringAnswer(),
    )


def test_a_model_in_this_process_demonstrates_what_it_knows_in_part(tmp_path: Path) -> None:
    def run(name: str, *limits: int) -> list[dict[str, Any]]:
        for samples in limits:
            chat = LocalChat("zoo/laptop", max_tokens=12, temperature=1.0, batch_size=64)
            demonstrate(skills(tmp_path), chat, str(tmp_path / name), samples=samples)
        return read_lines(tmp_path / name)

    rows = run("once.jsonl", 1)
    for row in rows:
        letters = row["prompt"][-1]["content"].split()[1:]
        assert [word for word in row["response"].split() if len(word) == 1 and word.isalpha()] == [
            letters[-1],
            *letters[1:-1],
            letters[0],
        ]
    more = run("more.jsonl", 6)
    assert 0 < len(rows) < len(more)

    # a run in two parts draws other samples in the second
    run("parts.jsonl", 1, 2)
    drawn: dict[str, list[str]] = {}
    for record in read_lines(tmp_path / "parts.journal.jsonl"):
        if "response" in record:
            drawn.setdefault(record["id"], []).append(record["response"])
    pairs = [samples for samples in drawn.values() if len(samples) == 2]
    assert sum(first != second for first, second in pairs) > len(pairs) / 2 > 0


@pytest.mark.parametrize(
    ("chat", "setting"),
    [(LocalChat("zoo/laptop"), "chat.temperature"), (Endpoint("m", "http://127.0.0.1:1", temperature=0.0), "samples")],
)
def test_refuses_to_pay_for_equal_samples(chat: Any, setting: str, train: str, tmp_path: Path) -> None:
    with pytest.raises(ChatError, match=f"the 8 samples of a question are all the same; .*{setting}"):
        demonstrate(ScienceDataModule(train=train), chat, str(tmp_path / "demos.jsonl"))


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
    with pytest.raises(DataError, match=r"samples=0 must be at least 1"):
        demonstrate(ScienceDataModule(train=train), chat, output, samples=0)
    with pytest.raises(DataError, match=r"demos.json must end in .jsonl"):
        demonstrate(ScienceDataModule(train=train), chat, output.removesuffix("l"))
    with pytest.raises(DataError, match="evaluates nothing, which would say how to grade"):
        demonstrate(ScienceDataModule(train=train, validation_share=0, test_share=0), chat, output)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Why?"}))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "Who?", "key": "x"}))
    files = {"train_file": str(tmp_path / "rows.jsonl"), "test_file": str(tmp_path / "test.jsonl")}
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
