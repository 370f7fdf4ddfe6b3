"""A real HTTP server on loopback in the place of a vLLM server: it reads weights from files, fuses them, and samples.

The worker's extension runs as it does in vLLM. The server can be told to fail in the ways that matter.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.records import Sampling
from lightning_sdft.rollout import generate
from lightning_sdft.rollout.vllm.worker import PolicyWorker

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def fused_model(weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights as vLLM lays them out: fused projections, a padded vocabulary, a tied head that is not there twice."""
    model = nn.Module()
    model.packed_modules_mapping = FUSED  # type: ignore[assignment]

    def add(name: str, tensor: Tensor) -> None:
        owner = model
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner._modules[parent]  # type: ignore[assignment]
        owner.register_parameter(leaf, nn.Parameter(tensor.to(dtype), requires_grad=False))

    for name, tensor in weights.items():
        if "embed_tokens" in name or "lm_head" in name:
            add(name, torch.cat([tensor, tensor.new_zeros(128 - len(tensor), *tensor.shape[1:])]))
        elif not any(part in name for parts in FUSED.values() for part in parts):
            add(name, tensor)
    for fused, parts in FUSED.items():
        for name in [each for each in weights if parts[0] in each]:
            pieces = [weights[name.replace(parts[0], part)] for part in parts]
            add(name.replace(parts[0], fused), torch.cat(pieces))
    return model


class StandIn(ThreadingHTTPServer):
    """Serves the model of a folder.

    Attributes:
        calls: Method and arguments of each call of the workers.
        requests: Completions that were asked for.
        deaf: Whether weights that are sent are read and forgotten.
        settings: What differs in what it says of itself.
        answers: What it answers to a path instead, as status and body.
        hangs: Whether it keeps connections and says nothing.
        dies_after: Completions after which it is gone.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.policy = Policy.load(str(folder))
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.requests: list[dict[str, Any]] = []
        self.deaf = self.hangs = False
        self.settings: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.dies_after = 10**9
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.prefixes: dict[tuple[str, tuple[int, ...]], dict[str, Tensor]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that hung up."""

    def call(self, method: str, kwargs: dict[str, Any]) -> Any:
        self.calls.append((method, kwargs))
        if method == "reload_weights":
            weights = load_file(Path(kwargs["weights_path"]) / "model.safetensors")
            if not self.deaf:
                self.policy.model.load_state_dict(weights)
            return None
        worker = PolicyWorker()
        config = SimpleNamespace(hf_text_config=self.policy.config, max_model_len=64, dtype=torch.float32)
        config.logprobs_mode = "processed_logprobs"
        worker.vllm_config = SimpleNamespace(model_config=config)
        weights = {name: each for name, each in self.policy.model.state_dict().items()}
        worker.model_runner = SimpleNamespace(get_model=lambda: fused_model(weights))
        answer = getattr(worker, method)()
        return {**answer, **self.settings} if method == "policy_settings" else answer

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Sample, with the weights that were there when the prompt was first read under its salt: a prefix cache."""
        assert body["ignore_eos"] is True
        assert body["repetition_penalty"] == 1
        now = {name: each.clone() for name, each in self.policy.model.state_dict().items()}
        read = self.prefixes.setdefault((body["cache_salt"], tuple(body["prompt"])), now)
        self.policy.tokenizer.stop_ids = set(body["stop_token_ids"])
        sampling = Sampling(*(body[name] for name in ("temperature", "top_p", "top_k", "min_p")))
        self.policy.model.load_state_dict(read)
        (rollout,) = generate(self.policy, [body["prompt"]], body["max_tokens"], sampling, [body["seed"]])
        self.policy.model.load_state_dict(now)
        choice = {"token_ids": rollout.completion, "logprobs": {"token_logprobs": rollout.log_probabilities}}
        return {"choices": [choice]}

    def health(self) -> dict[str, Any]:
        return {}

    def die(self) -> None:
        """Stop listening, as a killed process does."""
        threading.Thread(target=self.shutdown, daemon=True).start()
        self.socket.close()


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        assert self.path == "/health"
        self.answer(self.server.health())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            if self.path == "/v1/completions" and len(server.requests) == server.dies_after:
                server.die()
                self.connection.close()
                return
            if self.path == "/v1/completions":
                server.requests.append(body)
                result = server.complete(body)
            else:
                assert self.path == "/collective_rpc"
                result = {"results": [server.call(body["method"], body["kwargs"])]}
        self.answer(result)

    def answer(self, result: Any) -> None:
        if self.server.hangs:
            self.server.released.wait(60)
        status, content = self.server.answers.get(self.path, (200, json.dumps(result).encode()))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def standing_in(folder: Path, port: int = 0) -> Iterator[StandIn]:
    """A server that runs in threads of this process."""
    server = StandIn(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
