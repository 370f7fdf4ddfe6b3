from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.errors import RolloutError
from lightning_sdft.rollout.vllm import client as module
from lightning_sdft.rollout.vllm.client import Client, RefusedError
from tests.rollout.vllm.stand_in import StandIn, standing_in


@pytest.fixture
def server(family_folder: Callable[[str], Path]) -> Iterator[StandIn]:
    with standing_in(family_folder("llama")) as server:
        yield server


def call(server: StandIn, method: str = "policy_settings") -> Any:
    return Client(server.url, "start it").post("/collective_rpc", {"method": method, "kwargs": {}})


def test_answers_come_in_the_order_of_the_requests(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    monkeypatch.setattr(server, "complete", lambda body: {"echo": body["number"]})
    answers = Client(server.url + "/", "").post_all("/v1/completions", [{"number": number} for number in range(20)])
    assert answers == [{"echo": number} for number in range(20)]


def test_nobody_listening_is_an_error_that_says_what_to_do(unused_port: int) -> None:
    with pytest.raises(RolloutError, match=rf"127.0.0.1:{unused_port} does not answer .*refused.*; start it"):
        Client(f"http://127.0.0.1:{unused_port}", "start it").post("/collective_rpc", {})


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error": {"message": "no attribute policy_settings"}}', "(500): no attribute policy_settings"),
        (404, b'{"detail": "Not Found"}', "(404): "),
        (403, b"<html>", "(403): b'<html>'"),
    ],
)
def test_refusals_say_why(server: StandIn, status: int, body: bytes, reason: str) -> None:
    server.answers["/collective_rpc"] = (status, body)
    with pytest.raises(RefusedError) as error:
        call(server)
    assert f"refuses /collective_rpc {reason}" in str(error.value)


def test_another_kind_of_server_is_an_error(server: StandIn) -> None:
    server.answers["/collective_rpc"] = (200, b"<html>welcome")
    with pytest.raises(RolloutError, match="is no vLLM server: b'<html>welcome'"):
        call(server)


def test_server_that_hangs_is_given_up(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_AFTER", 0.1)
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    server.hangs = True
    with pytest.raises(RolloutError, match=r"does not answer .*timed out.*; start it"):
        call(server)
    # With the real figures: within a minute
    monkeypatch.undo()
    assert module.LOOK_AFTER + module.PATIENCE < 60


def test_server_that_takes_long_but_lives_is_waited_for(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_AFTER", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 30.0)
    release = threading.Event()
    asked: list[float] = []

    def health() -> dict[str, Any]:
        asked.append(time.monotonic())
        if len(asked) == 3:
            release.set()
        return {}

    monkeypatch.setattr(server, "health", health)
    monkeypatch.setattr(server, "complete", lambda body: {"waited": release.wait(30)})
    assert Client(server.url, "").post("/v1/completions", {}) == {"waited": True}
    assert len(asked) >= 3


def test_server_that_dies_while_it_is_asked_is_an_error(server: StandIn) -> None:
    server.dies_after = 2
    server.complete = lambda body: {}  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match="does not answer"):
        Client(server.url, "start it").post_all("/v1/completions", [{"number": n} for n in range(8)])
