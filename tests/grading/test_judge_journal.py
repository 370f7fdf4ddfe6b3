"""What a judge has on disk, and when."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from torch import distributed

from lightning_sdft.chat import Journal
from tests.chat.server import Answer, ChatServer, fails, says
from tests.command_process import CommandProcess
from tests.grading.judging import (
    ANSWERS,
    LABELS,
    QUESTIONS,
    RESPONSES,
    lines,
    make_judge,
    response_in,
    server,
    verdict,
)

__all__ = ["make_judge", "server"]


def test_responses_are_on_disk_before_the_judge_is_asked(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    seen = []

    def answer(prompt: str, before: int) -> Answer:
        seen.append([record["response"] for record in lines(tmp_path / "judge" / "responses.jsonl")])
        return verdict(prompt)

    server.answer = answer
    make_judge().labels(QUESTIONS, ANSWERS, RESPONSES)
    assert seen == [RESPONSES] * 4


def test_verdicts_are_on_disk_before_the_rest_arrives(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "judge" / "verdicts.jsonl"

    def answer(prompt: str, before: int) -> Answer:
        if response_in(prompt) == "wrong":  # is answered when the others are on disk
            for _ in range(2000):
                if path.exists() and len(lines(path)) == 3:
                    break
                threading.Event().wait(0.01)
            else:
                return fails(500)
        return verdict(prompt)

    server.answer = answer
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert [record["label"] for record in lines(path)][-1] == "INCORRECT"


def test_second_run_pays_nothing(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    make_judge().labels(QUESTIONS, ANSWERS, RESPONSES)
    files = {path: path.read_bytes() for path in (tmp_path / "judge").iterdir()}
    assert {path.name for path in files} == {"responses.jsonl", "verdicts.jsonl"}
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert make_judge().labels(QUESTIONS[::-1], ANSWERS[::-1], RESPONSES[::-1]) == LABELS[::-1]
    assert len(server.requests) == 4
    assert {path: path.read_bytes() for path in (tmp_path / "judge").iterdir()} == files


def test_verdict_is_of_one_judge_on_one_question_reference_and_response(make_judge: Any, server: ChatServer) -> None:
    make_judge().labels(["Who?"], ["Ada"], ["right"])
    asked = 1
    for judge, question_, answer, response in [
        (make_judge(), "Whom?", "Ada", "right"),
        (make_judge(), "Who?", "Eve", "right"),
        (make_judge(), "Who?", "Ada", "wrong"),
        (make_judge(name="judge-2"), "Who?", "Ada", "right"),
        (make_judge(prompt="medical"), "Who?", "Ada", "right"),
    ]:
        assert judge.labels([question_], [answer], [response]) == ["INCORRECT" if response == "wrong" else "CORRECT"]
        asked += 1
        assert len(server.requests) == asked


def test_equal_responses_to_a_question_are_judged_once(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    labels = make_judge().labels(["Who?"] * 5, ["Ada"] * 5, ["right", "wrong", "right", "right", "wrong"])
    assert labels == ["CORRECT", "INCORRECT", "CORRECT", "CORRECT", "INCORRECT"]
    assert len(server.requests) == 2
    assert len(lines(tmp_path / "judge" / "responses.jsonl")) == 2


def test_babble_on_disk_is_no_verdict(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    server.answer = lambda prompt, before: says("hm")
    assert make_judge(attempts=1).labels(QUESTIONS, ANSWERS, RESPONSES) == [None] * 4
    server.answer = verdict
    judge = make_judge(attempts=1)
    assert judge.labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    path = tmp_path / "judge" / "verdicts.jsonl"
    Journal(path).append({**lines(path)[-1], "label": None})  # another process got babble at the same time
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert len(server.requests) == 8


def test_two_judges_with_one_folder_share_verdicts(make_judge: Any, server: ChatServer) -> None:
    first, second = make_judge(), make_judge()
    for start in (0, 2):
        part = slice(start, start + 2)
        assert first.labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part]) == LABELS[part]
        assert second.labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part]) == LABELS[part]
    assert len(server.requests) == 4


def test_each_process_has_files_of_its_own_and_reads_all(make_judge: Any, server: ChatServer, tmp_path: Path) -> None:
    for rank, part in ((0, slice(0, 2)), (1, slice(2, 4))):
        distributed.init_process_group("fake", store=distributed.HashStore(), rank=rank, world_size=2)
        try:
            make_judge().labels(QUESTIONS[part], ANSWERS[part], RESPONSES[part])
        finally:
            distributed.destroy_process_group()
    names = sorted(path.name for path in (tmp_path / "judge").iterdir())
    assert names == ["responses.rank0.jsonl", "responses.rank1.jsonl", "verdicts.rank0.jsonl", "verdicts.rank1.jsonl"]
    assert [len(lines(tmp_path / "judge" / name)) for name in names] == [2, 2, 2, 2]
    assert make_judge().labels(QUESTIONS, ANSWERS, RESPONSES) == LABELS
    assert len(server.requests) == 4


def test_process_killed_in_the_middle_pays_only_for_the_rest(
    make_judge: Any, server: ChatServer, tmp_path: Path
) -> None:
    responses = [f"{'right' if index % 3 else 'wrong'} {index}" for index in range(20)]
    reached, killed = threading.Event(), threading.Event()

    def answer(prompt: str, before: int) -> Answer:
        if len(server.requests) > 9:
            reached.set()
            killed.wait(60)
        return verdict(prompt)

    server.answer = answer
    script = f"""
from lightning_sdft.chat import Endpoint
from lightning_sdft.grading.judge import Judge
chat = Endpoint("judge-1", {server.url!r}, concurrency=2)
Judge(chat, "knowledge", {str(tmp_path / "judge")!r}).labels(["Q"] * 20, ["A"] * 20, {responses!r})
"""
    process = CommandProcess(script=script)
    try:
        assert reached.wait(60)
    finally:
        process.kill()
        killed.set()
    folder = tmp_path / "judge"
    with (folder / "verdicts.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')  # had it been killed a little later
    server.answer = verdict
    before = Journal(folder / "verdicts.jsonl").records()
    assert len(before) >= 8  # of the ten requests two are in flight
    expected = ["INCORRECT" if index % 3 == 0 else "CORRECT" for index in range(20)]
    assert make_judge().labels(["Q"] * 20, ["A"] * 20, responses) == expected
    judged_before = {record["key"] for record in before}
    asked_again = [prompt for prompt, times in server.asked.items() if times > 1]
    assert len(server.requests) == 20 + len(asked_again) <= 22
    assert len(judged_before) + len(asked_again) <= len(server.asked) == 20
    assert len(Journal(folder / "verdicts.jsonl").records()) == 20
    assert len(lines(folder / "responses.jsonl")) == 20
