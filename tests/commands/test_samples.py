"""How responses are sampled and kept, with a real HTTP server on loopback and with a real model."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.chat.journal import Journal
from lightning_sdft.chat.local import LocalChat
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.science import ScienceDataModule
from lightning_sdft.data.string_skills import StringSkillsDataModule
from lightning_sdft.errors import ChatError, DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.string_answer import StringAnswer
from tests.chat.server import Answer, ChatServer, fails, says
from tests.command_process import CommandProcess
from tests.commands.conftest import KEY, endpoint, number, published, read_lines, right_at_try, solution, user_turn


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
    process = CommandProcess(script=script)
    try:
        assert reached.wait(60)
        deadline = time.monotonic() + 60
        while server.in_flight < 4 or len(Journal(journal).records()) < len(server.requests) - 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
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


def test_equal_prompts_share_their_samples(server: ChatServer, tmp_path: Path) -> None:
    rows = [{"prompt": user_turn(n), "key": solution(KEY[n % 4], f"try {n % 5 + 1} of {n}")} for n in (1, 2, 1, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": user_turn(9), "key": "x"}))
    data = JsonDataModule(
        str(tmp_path / "rows.jsonl"),
        demonstration_column=None,
        reference_column="key",
        test=str(tmp_path / "test.jsonl"),
    )
    demonstrate(data, endpoint(server), str(tmp_path / "demos.jsonl"))
    assert server.asked == {user_turn(1): 2, user_turn(2): 3}
    written = read_lines(tmp_path / "demos.jsonl")
    assert [row["id"] for row in written] == ["rows-1", "rows-2", "rows-3", "rows-4"]
    assert [row["response"] for row in written] == [row["key"] for row in rows]


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
    rows = [
        {"prompt": each.prompt, "key": each.reference}
        for each in source._draw("swap-ends", source.train_size + source.validation_size + source.test_size)
    ]
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
