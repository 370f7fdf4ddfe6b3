"""A key, a server that says each prompt backwards, and an endpoint that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lightning_sdft.chat.endpoint import Endpoint
from tests.chat.server import ChatServer, says, serving

__all__ = ["KEY", "ask", "endpoint", "key", "server"]


KEY = "sk-very-secret-123"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """Says each prompt backwards; a test may set another ``answer``."""
    with serving(lambda prompt, before: says(prompt[::-1])) as running:
        yield running


def ask(*prompts: str) -> list[list[Any]]:
    return [[{"role": "user", "content": prompt}] for prompt in prompts]


def endpoint(server: ChatServer, **arguments: Any) -> Endpoint:
    return Endpoint("judge-1", server.url, **{"retries": 2, "timeout": 10.0, **arguments})
