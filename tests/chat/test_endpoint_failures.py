"""Failures that pass, and those that do not."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.errors import ChatError
from tests.chat.asking import ask, endpoint, key, server
from tests.chat.server import Answer, ChatServer, fails, says

__all__ = ["key", "server"]


# Failures that pass


RESET = Answer(resets=True)
CUT = Answer(**{**vars(says("half")), "cuts": True})


PASSING = [
    fails(500),
    fails(503),
    fails(429),
    fails(408),
    fails(409),
    RESET,
    CUT,
    Answer(b"garbage"),
    Answer(b'{"choices": [{"message": {"content": "cut'),
    Answer(b""),
    Answer(b"null"),
    Answer(b"[]"),
    Answer(b'"text"'),
    Answer(b"{}"),
    Answer(b'{"choices": null}'),
    Answer(b'{"choices": []}'),
    Answer(b'{"choices": [{}]}'),
    Answer(b'{"choices": [{"message": null}]}'),
    Answer(b'{"choices": [{"message": "text"}]}'),
    says(["parts"]),
    says(7),
    Answer(b"<html>Welcome</html>", headers={"Content-Type": "text/html"}),
    Answer(b"\xff\xfe\x00"),
]


def test_failure_that_passes_costs_another_request_and_no_reply(server: ChatServer) -> None:
    server.answer = lambda prompt, before: says(prompt) if before or prompt == "good" else PASSING[int(prompt)]
    prompts = [str(index) for index in range(len(PASSING))]
    assert endpoint(server, retries=1, concurrency=32).reply(ask(*prompts, "good")) == [*prompts, "good"]
    assert server.asked == dict.fromkeys(prompts, 2) | {"good": 1}


def test_server_that_stalls_is_asked_again(server: ChatServer) -> None:
    server.answer = lambda prompt, before: says(prompt) if before else Answer(**{**vars(says("late")), "stall": 0.6})
    assert endpoint(server, retries=1, timeout=0.3).reply(ask("a", "b")) == ["a", "b"]
    assert server.asked == {"a": 2, "b": 2}


def test_server_that_says_when_to_ask_again_is_obeyed(server: ChatServer) -> None:
    server.answer = lambda prompt, before: says("yes") if before else fails(429, retry_after="1")
    assert endpoint(server).reply(ask("a")) == ["yes"]
    first, second = server.requests
    assert second.time - first.time >= 0.95  # the client's own back-off would have been half a second


@pytest.mark.parametrize("retries", [0, 2])
def test_no_reply_after_all_retries(retries: int, server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.answer = lambda prompt, before: fails(500) if prompt.startswith("bad") else says(prompt)
    heard: list[int] = []
    model = endpoint(server, retries=retries)
    replies = model.reply(ask("a", "bad 1", "b", "bad 2"), lambda index, text: heard.append(index))
    assert replies == ["a", None, "b", None]
    assert sorted(heard) == [0, 2]
    assert server.asked == {"a": 1, "b": 1, "bad 1": retries + 1, "bad 2": retries + 1}
    assert "no reply to 2 conversations" in caplog.text
    assert "status 500" in caplog.text


@pytest.mark.parametrize("failure", [RESET, Answer(b"garbage"), Answer(**{**vars(says("late")), "stall": 0.6})])
def test_no_reply_of_a_server_that_breaks_off_or_stalls(failure: Answer, server: ChatServer) -> None:
    server.answer = lambda prompt, before: failure if prompt == "bad" else says(prompt)
    model = endpoint(server, retries=1, timeout=0.3 if failure.stall else 10.0)
    assert model.reply(ask("bad", "a")) == [None, "a"]
    assert server.asked == {"bad": 2, "a": 1}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_conversation_that_the_server_refuses_gets_no_reply(status: int, server: ChatServer) -> None:
    server.answer = lambda prompt, before: fails(status, param="messages") if prompt == "long" else says(prompt)
    assert endpoint(server).reply(ask("a", "long", "b")) == ["a", None, "b"]
    assert server.asked["long"] == 1


def test_empty_text_is_a_reply_and_a_refusal_is_none(server: ChatServer) -> None:
    answers = {"empty": says(""), "refused": says(None, refusal="I cannot."), "nothing": says(None)}
    server.answer = lambda prompt, before: answers[prompt]
    assert endpoint(server).reply(ask("empty", "refused", "nothing")) == ["", None, None]
    assert len(server.requests) == 3


def test_a_megabyte_of_text_and_odd_characters_there_and_back(server: ChatServer) -> None:
    prompts = ["ü🙂\u2028\x00{}%s\n" * 70_000, "half a pair: \ud83d"]
    replies = endpoint(server).reply(ask(*prompts))
    assert replies == [prompts[0][::-1], "?" + "half a pair: "[::-1]]


# A model that cannot be used at all


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (fails(401), "refuses: .*status 401.* the key in OPENAI_API_KEY"),
        (fails(402), "refuses"),
        (fails(403), "refuses"),
        (fails(404), "refuses: .*check model, base_url"),
        (fails(404, param="model"), "refuses model='judge-1'"),
        (fails(405), "refuses"),
        (fails(400, param="temperature"), r"refuses temperature=0\.3"),
        (fails(400, param="max_completion_tokens"), "refuses max_completion_tokens=5"),
        (fails(429, code="insufficient_quota"), "no quota left"),
    ],
)
def test_refusal_that_concerns_all_ends_it_at_once(failure: Answer, message: str, server: ChatServer) -> None:
    server.answer = lambda prompt, before: failure
    model = endpoint(server, concurrency=2, retries=1, temperature=0.3, max_tokens=5)
    with pytest.raises(ChatError, match=message):
        model.reply(ask(*map(str, range(200))))
    assert len(server.requests) <= 8


def test_what_is_paid_for_is_kept_when_the_key_is_refused_midway(server: ChatServer) -> None:
    refused = threading.Event()

    def answer(prompt: str, before: int) -> Answer:
        if prompt == "2":
            refused.set()
            return fails(401)
        if prompt == "1":  # is in the server's hands when the other is refused
            assert refused.wait(20)
            return Answer(**{**vars(says(prompt)), "stall": 0.2})
        return says(prompt)

    server.answer = answer
    heard: dict[int, str] = {}
    with pytest.raises(ChatError):
        endpoint(server, concurrency=2).reply(ask(*map(str, range(500))), heard.__setitem__)
    assert {0: "0", 1: "1"}.items() <= heard.items()
    assert len(server.requests) < 50
    assert len(heard) == len(server.requests) - 1


def test_server_that_always_fails_is_given_up(server: ChatServer) -> None:
    server.answer = lambda prompt, before: fails(500)
    with pytest.raises(ChatError, match=r"failed on 32 conversations in a row, 1 retries each.*status 500"):
        endpoint(server, concurrency=4, retries=1).reply(ask(*map(str, range(300))))
    assert len(server.requests) < 100


def test_server_that_often_fails_is_not_given_up(server: ChatServer) -> None:
    server.answer = lambda prompt, before: says(prompt) if int(prompt) % 8 == 0 else fails(500)
    replies = endpoint(server, concurrency=1, retries=0).reply(ask(*map(str, range(120))))
    assert [reply for reply in replies if reply is not None] == [str(index) for index in range(0, 120, 8)]
    server.answer = lambda prompt, before: fails(400)  # nor one that says of each conversation what is wrong with it
    assert endpoint(server, concurrency=1, retries=0).reply(ask(*map(str, range(120)))) == [None] * 120


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ChatError, match=f"{url}.*cannot be reached.*start it, or correct base_url"):
            Endpoint("m", url, retries=1).reply(ask("a"))
    with pytest.raises(ChatError, match="cannot be reached"):
        Endpoint("m", "localhost:8000/v1", retries=0).reply(ask("a"))


def test_wrong_path(server: ChatServer) -> None:
    with pytest.raises(ChatError, match="check model, base_url"):
        Endpoint("m", server.url.removesuffix("/v1")).reply(ask("a"))


def test_without_the_client(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ChatError, match=r"pip install 'lightning-sdft\[judge\]'"):
        endpoint(server).reply(ask("a"))


def test_error_of_the_caller_ends_it(server: ChatServer) -> None:
    def on_reply(index: int, text: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        endpoint(server, concurrency=1).reply(ask(*map(str, range(200))), on_reply)
    assert len(server.requests) < 100
