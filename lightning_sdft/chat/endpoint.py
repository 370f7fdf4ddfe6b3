"""A chat model on a server with OpenAI's chat completions API: OpenAI's own, or vLLM on your machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.errors import ChatError, SettingError
from lightning_sdft.records import Message
from lightning_sdft.settings import Count, Natural, NonNegative, Positive, check_ranges
from lightning_sdft.storage.masking import is_like_a_key

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

__all__ = ["Endpoint"]

log = logging.getLogger(__name__)

NO_SERVER = {"ConnectError", "LocalProtocolError", "UnsupportedProtocol"}
"""Errors of the HTTP client that mean that it did not reach a server, rather than that the server failed."""

ABOUT_CONVERSATION = {400, 413, 422}
"""Status codes that concern only one conversation; other refusals (401, 404...) concern all of them."""

PASSING = {408, 409, 429}
"""Status codes below 500 that the client retries."""


class _NoReplyError(Exception):
    """One conversation got no reply; the message says why."""


class _ServerError(_NoReplyError):
    """One conversation got no reply because the server failed, not because of what it was asked."""


class Endpoint(ChatModel):
    """A model on an OpenAI-compatible server, with concurrent requests (extra ``judge``).

    Refused connections, time-outs, the status codes 408, 409, 429 and 5xx, and replies that are not chat completions
    are retried with back-off. The first retry comes after half a second, or when the server says (``Retry-After``, up
    to two minutes). A conversation gets no reply if all retries fail, or if the server refuses it (400, 413, 422); a
    warning gives the number of such conversations. An empty text counts as a reply, a refusal without text does not.

    Args:
        model: Name of the model on the server.
        base_url: Address of the server, such as ``http://localhost:8000/v1``; by default OpenAI's.
        api_key_variable: Name of the environment variable that holds the API key. It is read when the server is asked,
            and never stored. A server given by ``base_url`` may need no key.
        temperature: Sampling temperature; by default the server's. Many reasoning models refuse any other.
        max_tokens: Maximum number of tokens per reply, including hidden reasoning (``max_completion_tokens``); by
            default the server's limit.
        concurrency: Maximum number of concurrent requests.
        timeout: Seconds to wait for a connection, and for the next byte, before a request counts as failed.
        retries: Maximum number of retries of a failed request.

    Raises:
        SettingError: If a number is out of range, or if a setting contains a secret.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        temperature: NonNegative | None = None,
        max_tokens: Count | None = None,
        concurrency: Count = 16,
        timeout: Positive = 60.0,
        retries: Natural = 5,
    ) -> None:
        check_ranges(Endpoint, locals())
        # Settings end up in configs, checkpoints and logs, so they must not contain secrets. The errors do not repeat
        # the values, because they may be secrets.
        if not api_key_variable.isidentifier() or is_like_a_key(api_key_variable):
            raise SettingError("api_key_variable must be the name of an environment variable, and not the key itself")
        address = urlsplit(base_url or "")
        if "@" in address.netloc or address.query:
            raise SettingError(
                "base_url must not hold a password or a key, because settings are logged and saved; put the key into "
                f"the environment variable {api_key_variable}"
            )
        self.name = model
        self.base_url = base_url
        self.api_key_variable = api_key_variable
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries

    @property
    def always_same(self) -> bool:
        """Whether the temperature is 0."""
        return self.temperature == 0

    def reply(
        self, conversations: Sequence[Sequence[Message]], on_reply: Callable[[int, str], None] | None = None
    ) -> list[str | None]:
        """Reply to conversations; see :meth:`ChatModel.reply`.

        Raises:
            ChatError: If the server refuses the key, the model or a setting, if it cannot be reached, if it failed on
                many conversations in a row (32, or twice the concurrency if that is more), if the extra is not
                installed, or if there is no key.
        """
        replies: list[str | None] = [None] * len(conversations)
        if not conversations:
            return replies
        client = self._client()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            for index, text in self._arriving(conversations, pool, partial(self._ask, client)):
                replies[index] = text
                if on_reply is not None:
                    on_reply(index, text)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            client.close()
        return replies

    def _arriving(
        self, conversations: Sequence[Sequence[Message]], pool: Executor, ask: Callable[[Sequence[Message]], str]
    ) -> Iterator[tuple[int, str]]:
        """Yield the index and text of each reply as it arrives.

        A new request is sent only after a reply has been yielded, so a killed process loses at most ``concurrency``
        replies.
        """
        waiting = enumerate(conversations)
        pending: dict[Future[str], int] = {}
        failures: list[str] = []
        in_a_row, patience = 0, max(32, 2 * self.concurrency)
        fatal: ChatError | None = None
        while True:
            if fatal is None:  # otherwise only wait for the pending replies, which are already paid for
                begun = islice(waiting, self.concurrency - len(pending))
                pending |= {pool.submit(ask, conversation): index for index, conversation in begun}
            if not pending:
                break
            future = wait(pending, return_when=FIRST_COMPLETED).done.pop()
            index, error = pending.pop(future), future.exception()
            if isinstance(error, ChatError):
                fatal = fatal or error
            elif isinstance(error, _NoReplyError):
                failures.append(self._without_key(str(error)))
                in_a_row = in_a_row + 1 if isinstance(error, _ServerError) else 0
                if in_a_row == patience:
                    fatal = fatal or ChatError(
                        f"{self._server} failed on {in_a_row} conversations in a row, {self.retries} retries each, the "
                        f"last time because of: {failures[-1]}; try again when it works"
                    )
            else:
                in_a_row = 0
                yield index, future.result()
        if failures:
            log.warning("%s: no reply to %d conversations, first because of: %s", self.name, len(failures), failures[0])
        if fatal is not None:
            raise fatal

    @property
    def _server(self) -> str:
        return f"the server of {self.name!r} ({self.base_url or 'OpenAI'})"

    def _client(self) -> OpenAI:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ChatError("an endpoint needs the openai client; pip install 'lightning-sdft[judge]'") from error
        key = self._key()
        if key is None and self.base_url is None:
            raise ChatError(
                f"there is no API key for {self.name!r}: the environment variable {self.api_key_variable} is not set; "
                "set it, name another one by api_key_variable, or give the base_url of a server that needs no key"
            )
        return OpenAI(api_key=key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=self.retries)

    def _key(self) -> str | None:
        key = os.environ.get(self.api_key_variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ChatError(
                f"the environment variable {self.api_key_variable} holds a space, a line break or another character "
                "that no API key has; set it to the key alone"
            )
        return key or None

    def _without_key(self, text: str) -> str:
        """Mask the API key in a server's message, which may repeat it."""
        return text.replace(self._key() or "\0", "***")

    def _text(self, turn: Message) -> str:
        if not isinstance(turn["content"], str):
            raise ChatError(f"{self.name} is asked in text alone, and a prompt has an image; leave such rows out")
        return turn["content"]

    def _ask(self, client: OpenAI, conversation: Sequence[Message]) -> str:
        """Ask for the reply to one conversation, with retries for replies that are not chat completions."""
        settings: dict[str, Any] = {"model": self.name}
        if self.temperature is not None:
            settings["temperature"] = self.temperature
        if self.max_tokens is not None:
            settings["max_completion_tokens"] = self.max_tokens
        messages = [{"role": turn["role"], "content": _encodable(self._text(turn))} for turn in conversation]
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(0.5 * 2 ** (attempt - 1), 8.0))  # the same back-off as the client's own
            text = _text(self._send(client, messages, settings))
            if text is not None:
                return text
        raise _ServerError("a reply that is no chat completion")

    def _send(self, client: OpenAI, messages: Any, settings: dict[str, Any]) -> Any:
        """Send a request and return the client's parsed reply; ``None`` if it is not JSON."""
        from openai import APIConnectionError, APIStatusError

        try:
            return client.chat.completions.create(messages=messages, **settings)
        except APIConnectionError as error:
            reason = error.__cause__ or error
            if type(reason).__name__ in NO_SERVER:
                raise ChatError(f"{self._server} cannot be reached: {reason}; start it, or correct base_url") from None
            raise _ServerError(f"{error.message} ({type(reason).__name__})") from None
        except APIStatusError as error:
            raise self._refused(error, settings) from None
        except ValueError:
            return None

    def _refused(self, error: APIStatusError, settings: dict[str, Any]) -> Exception:
        """The exception for an error status; a ``ChatError`` if the error concerns all conversations."""
        said = self._without_key(error.message)[:500]
        if error.param in settings:
            return ChatError(f"{self._server} refuses {error.param}={settings[error.param]!r}: {said}; change it")
        if error.code == "insufficient_quota":
            return ChatError(f"{self._server} has no quota left for this key: {said}; add credit and run it again")
        if error.status_code in ABOUT_CONVERSATION:
            return _NoReplyError(said)
        if error.status_code in PASSING or error.status_code >= 500:
            return _ServerError(said)
        return ChatError(
            f"{self._server} refuses: {said}; check model, base_url, and the key in {self.api_key_variable}"
        )


def _text(completion: Any) -> str | None:
    """The text of a chat completion; ``None`` if the object is not a chat completion."""
    try:
        choice = completion.choices[0]
        content, refusal = choice.message.content, choice.message.refusal
    except (AttributeError, IndexError, TypeError):  # the client does not validate what the server sent
        return None
    if content is None:
        raise _NoReplyError(f"no text (finish_reason={choice.finish_reason}, refusal={refusal!r})")
    return content if isinstance(content, str) else None


def _encodable(text: str) -> str:
    """The text with unpaired surrogates replaced by ``?``, because they cannot be encoded."""
    return text.encode(errors="replace").decode()
