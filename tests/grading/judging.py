"""Questions, a server that judges their answers soundly, and judges that ask it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.chat import Endpoint
from lightning_sdft.grading.judge import Judge
from tests.chat.server import Answer, ChatServer, says, serving

__all__ = [
    "ANSWERS",
    "LABELS",
    "QUESTIONS",
    "REFERENCES",
    "RESPONSES",
    "lines",
    "make_judge",
    "response_in",
    "server",
    "verdict",
]


QUESTIONS = ["Who?", "Where?", "When?", "Why?"]
ANSWERS = ["Ada", "Turin", "1843", "Because"]
RESPONSES = ["right", "nearly", "wrong", "right too"]
REFERENCES = [{"question": asked, "answer": answer} for asked, answer in zip(QUESTIONS, ANSWERS, strict=True)]
LABELS = ["CORRECT", "PARTIALLY_CORRECT", "INCORRECT", "CORRECT"]


def response_in(prompt: str) -> str:
    """The model's response in a filled judge prompt."""
    return prompt.split("[Model Response]\n")[1].split("\nEvaluate the model's response.")[0]


def verdict(prompt: str, before: int = 0) -> Answer:
    """A sound judge."""
    words = {"right": "CORRECT", "nearly": "PARTIALLY_CORRECT", "wrong": "INCORRECT"}
    return says(words[response_in(prompt).split()[0]])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    for variable in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    with serving(verdict) as running:
        yield running


@pytest.fixture
def make_judge(server: ChatServer, tmp_path: Path) -> Callable[..., Judge]:
    def make(name: str = "judge-1", prompt: Any = "knowledge", folder: Any = tmp_path / "judge", **more: Any) -> Judge:
        chat = Endpoint(name, server.url, retries=1, timeout=10.0)
        return Judge(chat, prompt, None if folder is None else str(folder), **more)

    return make


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
