"""A real HTTP server on loopback that speaks chat completions, and fails, stalls and babbles as told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server does with one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    stall: float = 0.0
    resets: bool = False
    cuts: bool = False


def says(content: Any, **message: Any) -> Answer:
    """A chat completion."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": content, **message},
    }
    completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Answer(json.dumps(completion).encode())


def fails(status: int, retry_after: str | None = None, **error: Any) -> Answer:
    """An error as OpenAI words it; a client that asks again need not wait long, unless told so."""
    wait = {"Retry-After-Ms": "5"} if retry_after is None else {"Retry-After": retry_after}
    body = json.dumps({"error": {"message": f"status {status}", "type": "t", "param": None, "code": None, **error}})
    return Answer(body.encode(), status, {"Content-Type": "application/json", **wait})


@dataclass
class Request:
    """What the server was sent."""

    body: dict[str, Any]
    key: str
    time: float

    @property
    def prompt(self) -> str:
        """The last turn."""
        content: str = self.body["messages"][-1]["content"]
        return content


class ChatServer(ThreadingHTTPServer):
    """Answers by a function of the last turn and of how often it was asked before."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.requests: list[Request] = []
        self.asked: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """For ``base_url``."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that hung up."""


class Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        request = Request(body, self.headers.get("Authorization", "").removeprefix("Bearer "), time.monotonic())
        with server.lock:
            server.requests.append(request)
            before = server.asked[request.prompt]
            server.asked[request.prompt] += 1
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            answer = server.answer(request.prompt, before)
            time.sleep(answer.stall)
        finally:
            with server.lock:
                server.in_flight -= 1
        if self.path != "/v1/chat/completions":
            answer = fails(404)
        if answer.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cuts else answer.body)
        if answer.cuts:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(answer: Callable[[str, int], Answer]) -> Iterator[ChatServer]:
    """A server that runs in threads of this process."""
    server = ChatServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
