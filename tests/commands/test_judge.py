from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import auto_cli

from lightning_sdft.chat import Endpoint, LocalChat
from lightning_sdft.commands.judge import judge
from lightning_sdft.errors import ChatError, DataError
from lightning_sdft.grading.judge import Judge
from tests.chat.server import ChatServer, fails, says, serving

WORDS = {"right": "CORRECT", "nearly": "PARTIALLY_CORRECT", "wrong": "INCORRECT"}
RESPONSES = ["right", "nearly", "wrong", "right", "odd"]
QUESTIONS = [f"question {index}" for index in range(5)]


def verdict(prompt: str, before: int = 0) -> Any:
    response = prompt.split("[Model Response]\n")[1].split("\n")[0]
    return says(WORDS.get(response, "I cannot tell."))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    for variable in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    with serving(verdict) as running:
        yield running


@pytest.fixture
def run(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The command as it is typed; its lines, without those about how far it is."""

    def run(*arguments: str, prompt: str = "knowledge") -> list[str]:
        chat = ["--chat", "Endpoint", "--chat.model", "m", "--chat.base_url", server.url, "--chat.retries", "0"]
        auto_cli(judge, args=[*arguments, *chat, "--prompt", prompt, "--attempts", "1"], as_positional=False)
        return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("judge, attempt ")]

    return run


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """What ``predict`` writes, ungraded."""
    path = tmp_path / "run" / "predictions.jsonl"
    path.parent.mkdir()
    rows = [
        {
            "id": str(index),
            "prompt": [{"role": "user", "content": question}],
            "response": response,
            "finished": True,
            "reference": {"question": question, "answer": "ü"},
            "correct": {"knowledge": None},
        }
        for index, (question, response) in enumerate(zip(QUESTIONS, RESPONSES, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_how_far_it_is_is_said(server: ChatServer, predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(str(predictions), Endpoint("m", server.url, retries=0), "knowledge")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("judge, ")]
    assert said[0].startswith("judge, attempt 1: 1 of 5 replies (20%), ends at ")
    assert said[-1] == "judge, attempt 3: 1 of 1 (100%)"  # the odd one


def test_folder_of_a_judge_that_was_down(run: Callable[..., list[str]], server: ChatServer, tmp_path: Path) -> None:
    chat = Endpoint("m", server.url, retries=0)
    down = Judge(chat, "knowledge", str(tmp_path))
    assert down.labels(QUESTIONS[:1], ["a"], RESPONSES[:1]) == ["CORRECT"]
    server.answer = lambda prompt, before: fails(500)
    assert down.labels(QUESTIONS[1:], ["a"] * 4, RESPONSES[1:]) == [None] * 4
    server.requests.clear()

    server.answer = verdict
    report = run("--responses", str(tmp_path))
    assert report == [
        "CORRECT: 0.500 (0.000 to 1.000)",
        "CORRECT or PARTIALLY_CORRECT: 0.750 (0.250 to 1.000)",
        "graded: 4, ungraded: 1",
    ]
    assert len(server.requests) == 4  # the first had its verdict
    assert run("--responses", str(tmp_path)) == report
    assert len(server.requests) == 5  # the odd one is asked about again
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 5


def test_predictions_of_one_evaluation(
    run: Callable[..., list[str]], server: ChatServer, predictions: Path, tmp_path: Path
) -> None:
    before = predictions.read_bytes()
    report = run("--responses", str(predictions), prompt="medical")
    assert report == ["CORRECT: 0.667 (0.000 to 1.000)", "graded: 3, ungraded: 2"]
    assert predictions.read_bytes() == before
    assert (predictions.parent / "verdicts.jsonl").exists()
    run("--responses", str(predictions), "--folder", str(tmp_path / "verdicts"), prompt="medical")
    assert (tmp_path / "verdicts" / "verdicts.jsonl").exists()
    assert len(server.requests) == 10


def test_responses_of_several_processes_and_of_two_judges_count_once(
    run: Callable[..., list[str]], server: ChatServer, tmp_path: Path
) -> None:
    first, second = (Judge(Endpoint("m", server.url, retries=0), "knowledge", str(tmp_path)) for _ in range(2))
    first._kept, second._kept = set(), set()  # both have looked before either wrote
    first.labels(QUESTIONS[:2], ["a"] * 2, RESPONSES[:2])
    second.labels(QUESTIONS[:2], ["a"] * 2, RESPONSES[:2])
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 4
    (tmp_path / "responses.rank1.jsonl").write_text(
        json.dumps({"key": "k", "response": "wrong", "reference": {"question": "q", "answer": "a"}}) + "\n"
    )
    assert run("--responses", str(tmp_path))[-1] == "graded: 3, ungraded: 0"


def test_nothing_gradable_is_no_accuracy(run: Callable[..., list[str]], server: ChatServer, predictions: Path) -> None:
    server.answer = lambda prompt, before: says("hm")
    report = run("--responses", str(predictions), prompt="medical")
    assert report == ["CORRECT: nan (nan to nan)", "graded: 0, ungraded: 5"]


def test_judge_that_cannot_be_used(run: Callable[..., list[str]], server: ChatServer, predictions: Path) -> None:
    server.answer = lambda prompt, before: fails(401)
    with pytest.raises(ChatError, match="refuses"):
        run("--responses", str(predictions))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reference": {"question": "q", "answer": "a"}}, "row 2: no column 'response'"),
        ({"response": "a"}, "row 2: no column 'reference'"),
        ({"response": "a", "reference": "b"}, "row 2: column 'reference' holds"),
        ({"response": "a", "reference": {"question": "q"}}, "row 2: a judge needs a reference like"),
    ],
)
def test_row_that_cannot_be_judged_is_refused_before_anything_is_asked(
    row: dict[str, Any], message: str, run: Callable[..., list[str]], server: ChatServer, tmp_path: Path
) -> None:
    path = tmp_path / "responses.jsonl"
    good = {"response": "right", "reference": {"question": "q", "answer": "a"}}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match=f"responses.jsonl, {message}"):
        run("--responses", str(path))
    assert server.requests == []


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_no_responses(name: str, run: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no responses in"):
        run("--responses", str(tmp_path / name))


def test_local_model_judges_too(
    family_folder: Callable[[str], Path], predictions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = ["--chat", "LocalChat", "--chat.model", str(family_folder("llama")), "--chat.max_tokens", "1"]
    ask = '{"text": "w1 {model_response}", "labels": ["YES", "NO"]}'
    auto_cli(judge, args=["--responses", str(predictions), *chat, "--prompt", ask], as_positional=False)
    assert capsys.readouterr().out.splitlines()[-1] == "graded: 0, ungraded: 5"
    judge(str(predictions), LocalChat(str(family_folder("llama")), max_tokens=1), "medical")
