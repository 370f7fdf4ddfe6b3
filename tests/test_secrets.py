"""The key of an endpoint is in nothing that a command writes, logs or prints."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.cli import entry_point
from tests.chat.server import Answer, ChatServer, fails, says, serving
from tests.cli_runs import TRAINER
from tests.test_safety import write

KEY = "sk-easily-found-0123456789abcdef"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """Answers every second question, and repeats the key in its complaints about the others."""
    turns = itertools.count()

    def answer(prompt: str, before: int) -> Answer:
        return fails(400, message=f"no, {KEY}", param="messages") if next(turns) % 2 else says("CORRECT")

    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with serving(answer) as running:
        yield running


@pytest.fixture
def written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, bytes]]:
    """Runs a command and returns what it wrote, by file, with what it printed and logged."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)

    def run(*arguments: object) -> dict[str, bytes]:
        monkeypatch.setattr("sys.argv", ["lightning-sdft", *map(str, arguments)])
        try:
            entry_point()
            ended = ""
        except SystemExit as end:
            ended = str(end)
        printed = capfd.readouterr()
        said = {"out": printed.out, "err": printed.err, "end": ended, "log": caplog.text}
        files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return files | {name: text.encode() for name, text in said.items()}

    return run


def found(written: dict[str, bytes]) -> list[str]:
    """Where the key is. What torch and TensorBoard write is not compressed."""
    assert written
    return [name for name, content in written.items() if KEY.encode() in content]


def rows(path: Path, count: int, **columns: str) -> Path:
    lines = [{name: text.format(n=n) for name, text in columns.items()} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def settings(server: ChatServer) -> dict[str, Any]:
    own = {"base_url": server.url, "api_key_variable": "JUDGE_KEY", "retries": 0, "concurrency": 2}
    return {"class_path": "Endpoint", "init_args": {"model": "judge", **own}}


def test_training_with_a_judge(written: Callable[..., dict[str, bytes]], server: ChatServer, tmp_path: Path) -> None:
    train = rows(tmp_path / "train.jsonl", 8, Question="copy : a {n}", Complex_CoT="", Response="a")
    columns = {"Open-ended Verifiable Question": "copy : b {n}", "Ground-True Answer": "b {n}"}
    test = rows(tmp_path / "test.jsonl", 8, **columns)
    judge = {"chat": settings(server), "prompt": "medical", "folder": "judge"}
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "run", "version": ""}}
    names = ["RolloutTable", "HyperparameterSummary", "PredictionWriter", "ModelCheckpoint", "BaseComparison"]
    callbacks = [{"class_path": name} for name in names]
    budgets = {"max_prompt_tokens": 64, "max_completion_tokens": 4}
    config = write(
        tmp_path / "config.yaml",
        model={"class_path": "SFTModule", "init_args": {"model": "zoo/laptop", "pretrained": False, **budgets}},
        data={
            "class_path": "MedicalDataModule",
            "init_args": {
                "train": str(train),
                "test": str(test),
                "test_questions": 4,
                "validation_questions": 4,
                "judge": {"class_path": "Judge", "init_args": judge},
                "batch_size": 4,
            },
        },
        trainer={**TRAINER, "max_steps": 1, "logger": logger, "callbacks": callbacks},
    )
    everything = written("fit", "--config", config)
    everything |= written("predict", "--config", config)
    assert everything["end"] == b"", everything["err"]
    assert {request.key for request in server.requests} == {KEY}
    assert b"no, ***" in everything["log"]  # the server repeated it, and so somebody had to leave it out
    files = " ".join(everything)
    for expected in ("events.out", ".ckpt", "config.yaml", "hparams.yaml", "verdicts.jsonl", "predictions.jsonl"):
        assert expected in files
    assert b"JUDGE_KEY" in everything[str(tmp_path / "runs" / "run" / "config.yaml")]
    assert found(everything) == []


@pytest.mark.parametrize("refusal", [None, fails(401, message=f"Incorrect API key provided: {KEY}")])
def test_commands(
    refusal: Answer | None, written: Callable[..., dict[str, bytes]], server: ChatServer, tmp_path: Path
) -> None:
    if refusal is not None:
        server.answer = lambda prompt, before: refusal
    chat = ["--chat", write(tmp_path / "chat.yaml", **settings(server))]
    articles = tmp_path / "articles"
    articles.mkdir()
    (articles / "1.md").write_text("An event of 1.")
    responses = rows(tmp_path / "responses.jsonl", 4, response="a {n}")
    judged = [{**json.loads(line), "reference": {"question": "q", "answer": "a"}} for line in responses.open()]
    responses.write_text("\n".join(map(json.dumps, judged)))
    science = rows(tmp_path / "science.jsonl", 20, question="Is {n} odd?", answerKey="A", type="mcq-4-choices")
    choice = {"choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}, "details": {"level": "L3"}}
    science.write_text("\n".join(json.dumps(json.loads(line) | choice) for line in science.open()))
    data = ["--data", "ScienceDataModule", "--data.train", science, "--data.test_share", "0.2"]
    for arguments in (
        ["judge", "--responses", responses, "--prompt", "medical", "--folder", "verdicts"],
        ["questions", "--articles", articles, "--output", "pairs.jsonl"],
        ["demonstrate", *data, "--output", "demos.jsonl", "--samples", "1"],
    ):
        asked = len(server.requests)
        everything = written(*arguments, *chat)
        assert len(server.requests) > asked, everything["end"] + everything["err"]
        assert found(everything) == []
        if refusal is not None:
            assert b"***" in everything["end"]


def test_key_in_the_wrong_place_goes_nowhere(
    written: Callable[..., dict[str, bytes]], server: ChatServer, tmp_path: Path
) -> None:
    responses = tmp_path / "a.jsonl"
    responses.write_text(json.dumps({"response": "a", "reference": {"question": "q", "answer": "a"}}))
    chat = ["--chat=Endpoint", "--chat.model=m", f"--chat.base_url={server.url}", f"--chat.api_key_variable={KEY}"]
    everything = written("judge", "--responses", responses, "--prompt=medical", *chat)
    assert everything["end"].startswith(b"error: api_key_variable must be the name of an environment variable")
    assert found(everything) == []


@pytest.mark.parametrize("key", [KEY, "hf_EasilyFound0123456789", "EasilyFound0123456789ab"])
def test_key_in_the_wrong_place_of_a_config_goes_nowhere(
    key: str, written: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    own: dict[str, Any] = {"class_path": "Endpoint", "init_args": {"model": "m", "api_key_variable": key}}
    judge = {"class_path": "Judge", "init_args": {"prompt": "medical", "chat": own}}
    data = {"class_path": "MedicalDataModule", "init_args": {"test": "x.jsonl", "judge": judge}}
    model = {"class_path": "SFTModule", "init_args": {"model": "zoo/laptop"}}
    config = write(tmp_path / "config.yaml", model=model, data=data)
    own["init_args"]["nothing"] = 3
    wrong = write(tmp_path / "wrong.yaml", model=model, data=data)
    for arguments, said in (
        ([config], "api_key_variable must be the name of an environment variable"),
        ([wrong], "Endpoint has no setting nothing"),
        ([config, "--print_config"], "api_key_variable: '***'"),
    ):
        everything = written("fit", "--config", *arguments)
        printed = b"".join(everything.pop(name) for name in ("out", "err", "end", "log")).decode()
        assert said in printed
        assert key not in printed
        assert {name for name, text in everything.items() if key.encode() in text} == {str(config), str(wrong)}
