"""Science questions, and a server that answers them right at a known try."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.cli import entry_point
from tests.chat.server import Answer, ChatServer, says, serving

KEY = "ABCD"

PROGRESS = ("Seed set", "GPU available", "Loading weights", "Restoring")
"""How lines begin that other packages write before anything is refused."""


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line in this process, and returns the one line with which it ends, with exit code 2."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["lightning-sdft", *arguments])
        with pytest.raises(SystemExit) as end:
            entry_point()
        lines = capsys.readouterr().err.splitlines()
        printed = [line for line in lines if line.strip() and not line.strip().startswith(PROGRESS)]
        assert end.value.code == 2
        assert len(printed) == 1, printed
        assert printed[0].startswith("error: ")
        assert "Namespace" not in printed[0]
        return printed[0]

    return run


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
