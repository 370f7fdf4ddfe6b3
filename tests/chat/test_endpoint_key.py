"""The key is needed, kept nowhere, and told to nobody."""

from __future__ import annotations

import logging
import pickle
import traceback

import pytest

from lightning_sdft.chat.endpoint import Endpoint
from lightning_sdft.errors import ChatError
from tests.chat.asking import KEY, ask, endpoint, key, server
from tests.chat.server import ChatServer, fails, says

__all__ = ["key", "server"]


def test_key_is_read_when_it_is_used(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " other-key\n")
    model = endpoint(server, api_key_variable="MY_KEY")
    model.reply(ask("a"))
    monkeypatch.setenv("MY_KEY", "renewed-key")
    model.reply(ask("a"))
    monkeypatch.delenv("MY_KEY")
    model.reply(ask("a"))
    assert [request.key for request in server.requests] == ["other-key", "renewed-key", "none"]


def test_key_is_needed_where_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ChatError, match="no API key for 'gpt': the environment variable OPENAI_API_KEY is not set"):
        Endpoint("gpt").reply(ask("a"))


def test_key_is_kept_nowhere(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="lightning_sdft")
    model = endpoint(server)
    model.reply(ask("a"))
    server.answer = lambda prompt, before: fails(400 if prompt == "a" else 401, message=f"Incorrect key: {KEY}")
    with pytest.raises(ChatError, match=r"Incorrect key: \*\*\*") as raised:
        model.reply(ask("a", "b"))
    places = [repr(model), repr(vars(model)), str(pickle.dumps(model)), repr(raised.value), caplog.text]
    assert not any(KEY in place for place in places)
    assert "Incorrect key: ***" in caplog.text


def test_reason_of_the_server_is_told_without_the_key(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.answer = lambda prompt, before: says(None, refusal=f"not for {KEY}")
    assert endpoint(server).reply(ask("a")) == [None]
    assert "not for ***" in caplog.text


@pytest.mark.parametrize("odd", ["\n", "\r", " ", "\t", "é", "\x7f"])
def test_key_of_odd_characters_is_refused_and_not_repeated(
    odd: str, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HTTP client would repeat it in its error."""
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}{odd}second")
    with pytest.raises(ChatError, match="OPENAI_API_KEY holds a space, a line break or another") as raised:
        endpoint(server).reply(ask("a"))
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert server.requests == []


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"api_key_variable": KEY}, "api_key_variable must be the name of an environment variable"),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, "base_url must not hold a password or a key"),
        ({"base_url": f"https://localhost/v1?api_key={KEY}"}, "base_url must not hold a password or a key"),
    ],
)
def test_secret_in_a_setting_is_refused_and_not_repeated(setting: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        Endpoint("m", **setting)  # type: ignore[arg-type]
    assert KEY not in str(raised.value)
