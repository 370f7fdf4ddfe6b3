"""An HTTP client with JSON for a server that may take minutes to answer, or may have died."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, Queue
from typing import Any
from urllib.parse import urlsplit

from lightning_sdft.errors import RolloutError

__all__ = ["Client", "RefusedError"]

LOOK_AFTER = 10.0
"""Seconds between health checks of the server while no answer arrives."""

PATIENCE = 30.0
"""Seconds within which the server must answer a health check; so a server that hangs is noticed within a minute."""

AT_ONCE = 128
"""Number of requests that are sent concurrently; the server batches them itself."""


class RefusedError(RolloutError):
    """The server has answered a request with an error."""


class Client:
    """Sends concurrent requests, and notices when the server is gone.

    Args:
        url: Address of the server, such as ``http://localhost:8000``.
        advice: What the user can do when it does not answer; part of the error message.
    """

    def __init__(self, url: str, advice: str) -> None:
        self.url = url.rstrip("/")
        self.advice = advice

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send one request; see :meth:`post_all`."""
        return self.post_all(path, [body])[0]

    def post_all(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        """Send requests, and wait for all answers as long as the server is alive.

        Raises:
            RefusedError: If the server answers a request with an error.
            RolloutError: If the server cannot be reached, dies or hangs.
        """
        waiting = iter(enumerate(bodies))
        lock = threading.Lock()
        answers: Queue[tuple[int, Any]] = Queue()

        def send() -> None:
            while True:
                with lock:
                    index, body = next(waiting, (-1, {}))
                if index < 0:
                    return
                try:
                    answers.put((index, self._send("POST", path, body, None)))
                except RolloutError as error:
                    answers.put((index, error))

        # Daemon threads, so that exiting does not wait for a request to a server that hangs.
        for _ in range(min(len(bodies), AT_ONCE)):
            threading.Thread(target=send, daemon=True).start()
        results: list[Any] = [None] * len(bodies)
        for _ in bodies:
            index, answer = self._next(answers)
            if isinstance(answer, RolloutError):
                raise answer
            results[index] = answer
        return results

    def _next(self, answers: Queue[tuple[int, Any]]) -> tuple[int, Any]:
        while True:
            try:
                return answers.get(timeout=LOOK_AFTER)
            except Empty:
                self._send("GET", "/health", None, PATIENCE)

    def _send(self, method: str, path: str, body: dict[str, Any] | None, timeout: float | None) -> Any:
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.netloc, timeout=timeout)
        content = None if body is None else json.dumps(body)
        try:
            connection.request(method, parts.path + path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = response.read()
        except (OSError, HTTPException) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RolloutError(f"the vLLM server at {self.url} does not answer ({reason}); {self.advice}") from None
        finally:
            connection.close()
        if response.status >= 400:
            raise RefusedError(f"the vLLM server at {self.url} refuses {path} ({response.status}): {_reason(said)}")
        try:
            return json.loads(said) if said else None
        except ValueError:
            raise RolloutError(f"what answers {path} at {self.url} is no vLLM server: {said[:200]!r}") from None


def _reason(said: bytes) -> str:
    """The message of the server's error response, or the start of the response if it has no message."""
    try:
        return str(json.loads(said)["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return repr(said[:200])
