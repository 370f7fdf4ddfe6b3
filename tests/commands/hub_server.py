"""A real HTTP server on loopback that speaks the part of the Hugging Face hub that takes models, and fails as told.

It keeps large files as git LFS does; the hub's other way to keep them (Xet) is a protocol of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = ".safetensors"
"""The suffix of what is kept as a large file."""

CREATED = re.compile(r"/api/repos/create")
MODEL = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/(?P<what>preupload|commit)/main)?")
BATCH = re.compile(r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    """What a repository holds."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class HubServer(ThreadingHTTPServer):
    """The hub, as long as it runs."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.owners = ["me"]
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.sent: Counter[str] = Counter()  # times that each large file was sent whole
        self.resets = 0  # of so many large files the connection is cut in the middle
        self.refused_commits = 0
        self.full = False  # whether there is no room for large files
        self.echoes = False  # whether errors say what was asked

    @property
    def url(self) -> str:
        """For ``HF_ENDPOINT``."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that hung up."""


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = MODEL.fullmatch(self.path)
        if not self._known():  # to whom the hub does not say which models there are
            hidden = {"X-Error-Code": "RepoNotFound"} if found else {}
            return self._say(401, {"error": self._error("Invalid user token")}, hidden)
        if self.path == "/api/whoami-v2":
            return self._say(200, {"type": "user", "name": "me", "orgs": []})
        if found and (repository := self.server.repositories.get(found["name"])):
            return self._say(200, {"id": found["name"], "private": repository.private, "sha": "0" * 40, "siblings": []})
        return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._known():
            return self._say(401, {"error": self._error("Invalid user token")})
        if CREATED.fullmatch(self.path):
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if found := BATCH.fullmatch(self.path):
            return self._say(200, {"transfer": "basic", "objects": [*map(self._place, json.loads(body)["objects"])]})
        found = MODEL.fullmatch(self.path)
        if found and found["what"] == "preupload":
            return self._say(200, {"files": [*map(_kind, json.loads(body)["files"])]})
        if found and found["what"] == "commit":
            return self._commit(found["name"], [json.loads(line) for line in body.splitlines()])
        return self._say(404, {"error": "no such address"})

    def do_PUT(self) -> None:
        name, length = self.path.removeprefix("/large/").partition("?")[0], int(self.headers["Content-Length"])
        if self.server.resets:
            self.server.resets -= 1
            self.rfile.read(length // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        content = self.rfile.read(length)
        if self.server.full:
            return self._say(413, {"error": "no room"})
        assert hashlib.sha256(content).hexdigest() == name
        self.server.large[name] = content
        self.server.sent[name] += 1
        return self._say(200, {})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.server.owners:
            return self._say(403, {"error": self._error("You don't have the rights to create a model")})
        answer = {"url": f"{self.server.url}/{name}", "name": name}
        if name in self.server.repositories:
            return self._say(409, {"error": "You already created this model repo", **answer})
        self.server.repositories[name] = Repository(asked.get("visibility") == "private")
        return self._say(200, answer)

    def _place(self, file: dict[str, Any]) -> dict[str, Any]:
        """Where to send a large file to, if it is not there."""
        if file["oid"] in self.server.large:
            return file
        return {**file, "actions": {"upload": {"href": f"{self.server.url}/large/{file['oid']}?Signature=secretly"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.server.refused_commits:
            self.server.refused_commits -= 1
            return self._say(500, {"error": self._error("Try later")})
        repository = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.large[value["oid"]]
            else:
                repository.commits.append(value["summary"])
        url = f"{self.server.url}/{name}/commit/{'1' * 40}"
        return self._say(200, {"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _error(self, text: str) -> str:
        return f"{text}: you sent {self.headers['Authorization']}" if self.server.echoes else text

    def _say(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        message = {"X-Error-Message": content["error"]} if "error" in content else {}
        known = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for key, value in {**known, **message, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _kind(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(LARGE) else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


@contextmanager
def hub(token: str) -> Iterator[HubServer]:
    """A hub that runs in threads of this process and knows one token."""
    server = HubServer(token)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
