from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.endpoint import Endpoint
from tests.chat.asking import KEY, ask, endpoint, key, server
from tests.chat.server import Answer, ChatServer, says

__all__ = ["key", "server"]


def test_replies_come_in_the_order_of_the_conversations(server: ChatServer) -> None:
    prompts = [f"prompt {index}" for index in range(40)]
    server.answer = lambda prompt, before: Answer(**{**vars(says(prompt[::-1])), "stall": 0.02 * (int(prompt[7:]) % 3)})
    heard: dict[int, str] = {}
    threads = set()

    def on_reply(index: int, text: str) -> None:
        assert index not in heard
        heard[index] = text
        threads.add(threading.current_thread())

    replies = endpoint(server).reply(ask(*prompts), on_reply)
    assert replies == [prompt[::-1] for prompt in prompts]
    assert [heard[index] for index in range(40)] == replies
    assert threads == {threading.current_thread()}
    assert len(server.requests) == 40


def test_request_says_what_was_set_and_nothing_else(server: ChatServer) -> None:
    conversation = [
        {"role": "system", "content": "Be brief. ü {braces}"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    endpoint(server).reply([conversation])  # type: ignore[list-item]
    endpoint(server, temperature=0.0, max_tokens=7).reply([conversation])  # type: ignore[list-item]
    plain, full = server.requests
    assert plain.body == {"model": "judge-1", "messages": conversation}
    assert full.body == {**plain.body, "temperature": 0.0, "max_completion_tokens": 7}
    assert plain.key == KEY


def test_equal_conversations_are_asked_each_for_itself(server: ChatServer) -> None:
    server.answer = lambda prompt, before: says(f"{prompt}{before}")
    assert sorted(endpoint(server).reply(ask("a", "a", "a"))) == ["a0", "a1", "a2"]  # type: ignore[type-var]


def test_nothing_to_ask(server: ChatServer) -> None:
    assert endpoint(server).reply([]) == []
    assert server.requests == []


# Concurrency


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_as_many_are_in_flight_as_is_said(concurrency: int, server: ChatServer) -> None:
    together = threading.Barrier(concurrency, timeout=20)

    def answer(prompt: str, before: int) -> Answer:
        together.wait()  # goes on only when so many have arrived
        return Answer(**{**vars(says("yes")), "stall": 0.02})

    server.answer = answer
    count = 4 * concurrency
    assert endpoint(server, concurrency=concurrency).reply(ask(*map(str, range(count)))) == ["yes"] * count
    assert server.most_in_flight == concurrency


def test_replies_are_handed_on_before_the_rest_arrives(server: ChatServer) -> None:
    handed_on = threading.Event()

    def answer(prompt: str, before: int) -> Answer:
        if prompt == "slow":
            assert handed_on.wait(20)
        return says(prompt)

    server.answer = answer
    replies = endpoint(server, concurrency=1).reply(ask("quick", "slow"), lambda index, text: handed_on.set())
    assert replies == ["quick", "slow"]


def test_within_a_running_event_loop(server: ChatServer) -> None:
    async def cell() -> list[str | None]:
        return endpoint(server).reply(ask("abc"))

    assert asyncio.run(cell()) == ["cba"]


# Copies and configs


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_ask_too(copied: Any, server: ChatServer) -> None:
    model = endpoint(server, temperature=0.5)
    model.reply(ask("ab"))
    other = copied(model)
    assert vars(other) == vars(model)
    assert other.reply(ask("abc")) == ["cba"]


def test_from_yaml(server: ChatServer) -> None:
    parser = ArgumentParser()
    parser.add_argument("--chat", type=ChatModel)
    text = f"chat:\n  class_path: lightning_sdft.chat.Endpoint\n  init_args: {{model: m, base_url: '{server.url}'}}\n"
    config = parser.parse_string(text)
    assert KEY not in parser.dump(config)
    chat = parser.instantiate_classes(config).chat
    assert isinstance(chat, Endpoint)
    assert (chat.name, chat.concurrency, chat.timeout, chat.retries) == ("m", 16, 60.0, 5)
    assert chat.reply(ask("ab")) == ["ba"]
