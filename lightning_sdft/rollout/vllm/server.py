"""Rollouts from a vLLM server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import distributed

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.rollout.vllm.base import LOG_PROBABILITIES, WORKER, VLLMRollouts
from lightning_sdft.rollout.vllm.client import Client, RefusedError
from lightning_sdft.rollout.vllm.fingerprint import check_weights
from lightning_sdft.rollout.vllm.worker import SHAPE

__all__ = ["VLLMServer"]

COMMAND = (
    f"VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode {LOG_PROBABILITIES} --worker-extension-cls {WORKER} "
    "--max-model-len {max_tokens}"
)
"""The command that starts a server, in an environment that has this package."""


@dataclass
class VLLMServer(VLLMRollouts):
    """Rollouts from a vLLM server on the same host, on devices of its own (extra ``vllm`` in its environment).

    Start a server before training, for this run alone. Before the first rollout, its weights are replaced by the
    policy's::

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --logprobs-mode processed_logprobs \
            --worker-extension-cls lightning_sdft.rollout.vllm.worker.PolicyWorker --max-model-len 2048

    Anyone who can reach a server in this mode can change its weights, so do not expose it beyond this host. Weights
    are sent through a file. With several training processes, each requests its own rollouts, and the first one sends
    the weights.

    Args:
        url: Address of the server.
        folder: Folder for the file with the weights, which the server must be able to read; by default in memory
            (``/dev/shm``) if that exists, else the system's folder for temporary files.
    """

    url: str = "http://localhost:8000"
    folder: str | None = None
    _client: Client | None = field(default=None, init=False, repr=False, compare=False)
    _dtype: str = field(default="", init=False, repr=False, compare=False)

    def start(self, policy: Policy, max_tokens: int) -> None:
        """Check that the server answers and serves this policy's architecture; see :meth:`RolloutEngine.start`."""
        super().start(policy, max_tokens)
        command = COMMAND.format(max_tokens=max_tokens)
        again = f"start it, and go on from the last checkpoint by --ckpt_path if there is one: {command}"
        self._client = Client(self.url, again)
        try:
            settings: dict[str, Any] = self._call("policy_settings")[0]
        except RefusedError as error:
            raise RolloutError(f"{error}; it must be started in this way: {command}") from None
        shape = {name: getattr(policy.config, name, None) for name in SHAPE}
        if settings["shape"] != shape:
            raise RolloutError(
                f"the vLLM server at {self.url} serves {settings['shape']}, the policy is {shape}; serve the "
                "model that is trained"
            )
        if settings["log_probabilities"] != LOG_PROBABILITIES:
            raise RolloutError(
                f"the vLLM server at {self.url} gives {settings['log_probabilities']}, which are not the "
                f"log-probabilities of the distribution it samples from; start it in this way: {command}"
            )
        if settings["max_tokens"] < max_tokens:
            raise RolloutError(
                f"the vLLM server at {self.url} reads at most {settings['max_tokens']} tokens, but the token budgets "
                f"allow {max_tokens}; start it in this way: {command}"
            )
        self._dtype = settings["dtype"]

    def send_weights(self, policy: Policy) -> str:
        """Let the server load the weights from a file, which the first process writes, and check that it has them."""
        return on_first_process(lambda: self._send_weights(policy))

    def complete(
        self, policy: Policy, prompts: Sequence[list[int]], parameters: Sequence[dict[str, Any]]
    ) -> list[tuple[list[int], list[float]]]:
        """Send one request per completion, because each has its own seed."""
        own = {"return_token_ids": True, "cache_salt": self._fingerprint}
        bodies = [{"prompt": prompt, **each, **own} for prompt, each in zip(prompts, parameters, strict=True)]
        answers = self._connected.post_all("/v1/completions", bodies)
        try:
            choices = [answer["choices"][0] for answer in answers]
            return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]
        except (KeyError, IndexError, TypeError):
            raise RolloutError(
                f"the vLLM server at {self.url} answers without token ids or log-probabilities; it is of another "
                "version than the one that this package supports (0.32): install that one"
            ) from None

    def _send_weights(self, policy: Policy) -> str:
        weights = policy.weights()
        place = self.folder or ("/dev/shm" if Path("/dev/shm").is_dir() else None)
        with tempfile.TemporaryDirectory(prefix="policy-weights-", dir=place) as folder:
            dtype = getattr(torch, self._dtype)
            # Give every name a tensor of its own. The head is sent even if it is tied to the embedding, because vLLM
            # may hold a repacked copy of it, which would otherwise keep the old weights.
            tensors = {name: each.detach().to("cpu", dtype, copy=True) for name, each in weights.items()}
            save_file(tensors, Path(folder) / "model.safetensors")
            try:
                self._call("reload_weights", weights_path=folder)
            except RefusedError as error:
                raise RolloutError(
                    f"{error}. It must be able to read {folder}; if it cannot, set engine.folder to one that it can"
                ) from None
        return check_weights(weights, self._call("policy_sums"))

    def _call(self, method: str, **arguments: str) -> list[Any]:
        """Call a method of each of the server's workers."""
        answer = self._connected.post("/collective_rpc", {"method": method, "kwargs": arguments})
        return cast(list[Any], answer["results"])

    @property
    def _connected(self) -> Client:
        assert self._client is not None, "start comes first"
        return self._client


def on_first_process(function: Callable[[], str]) -> str:
    """Run a function in the first process; every process waits for it and gets its return value or error."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return function()
    outcome: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            outcome[0] = function()
        except RolloutError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise RolloutError(outcome[1])
    return cast(str, outcome[0])


torch.serialization.add_safe_globals([VLLMServer])  # checkpoints store it in their hyperparameters
