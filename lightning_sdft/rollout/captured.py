"""Decoding without launch overhead: a whole step is recorded in a CUDA graph and replayed for each token.

With few rows, a device computes a step faster than the process can launch its many small kernels one by one. A graph
launches all of them at once. It computes with the very weights and kernels of the step that it has recorded.

Each call records anew: that takes about as long as two steps without a graph, and nothing has to stay at its address,
or in memory, while the weights are trained.

[1] PyTorch, CUDA Graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

Letters: B sequences, T tokens.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from lightning_sdft.policy import Policy
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.fixed_decoding import FixedState
from lightning_sdft.policy.probe import logits_agree, text_tokens
from lightning_sdft.records import Sampling
from lightning_sdft.rollout.sampling import sample

__all__ = ["RecordedStep", "captured_steps", "worth_capturing"]

SHORTEST = 8
"""Fewest tokens for which it pays to record a step."""

ROWS = 64
"""Number of rows that take about as long as one, because a step reads the weights once for all of them."""

ROOM = 256
"""Fewest tokens that buffers have room for; beyond that, for a quarter of what has been read."""

REFUSALS: WeakKeyDictionary[Any, dict[Sampling, str]] = WeakKeyDictionary()
"""Why the steps of a model cannot be captured with some way of sampling, or nothing if they can."""

logger = logging.getLogger(__name__)


def worth_capturing(policy: Policy, sampling: Sampling, max_tokens: int) -> bool:
    """Whether to generate with captured steps; why a model on a GPU cannot is logged once.

    Args:
        policy: The policy that generates, in eval mode.
        sampling: Settings of sampling.
        max_tokens: Number of tokens of the longest completion.
    """
    if policy.device.type != "cuda" or max_tokens < SHORTEST:
        return False
    known = REFUSALS.setdefault(policy.model, {})
    if sampling not in known:
        refusal = unfit(policy) or try_out(policy, sampling)
        if refusal and refusal not in known.values():
            logger.info("rollouts launch their kernels one by one: %s", refusal)
        known[sampling] = refusal
    return not known[sampling]


def unfit(policy: Policy) -> str:
    """What is known in advance to keep the steps of a policy from being captured, if anything is."""
    if any(isinstance(module, FSDPModule) for module in policy.modules()):
        return "the weights are sharded"
    if len({parameter.device for parameter in policy.parameters()}) > 1:
        return "the weights are on several devices"
    if policy.tokenizer.images is not None:
        return "the model counts positions in three dimensions"
    return ""


def try_out(policy: Policy, sampling: Sampling) -> str:
    """Compare a few tokens of captured steps with plain ones; what is wrong, if anything is."""
    tokens, name = text_tokens(policy.model, policy.tokenizer, 10), type(policy.model).__name__
    prompts, first = [tokens[:5], tokens[5:8]], torch.tensor(tokens[8:], device=policy.device)
    with torch.autocast(policy.device.type, enabled=False):
        plain, fixed = policy.prefill(prompts), FixedState(policy.prefill(prompts), [0, 1], 3)
        noise = torch.full((2, 4), 0.5, dtype=torch.float64, device=policy.device)
        step = RecordedStep(policy, fixed, first, sampling, noise, 1)
        for _ in range(3):  # launched one by one, recorded, and replayed
            policy.advance(plain, step.tokens)
            try:
                with _waiting_fails(policy.device):
                    step()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
                return f"a step of {name} cannot be captured ({type(error).__name__}: {str(error).splitlines()[0]})"
            ours, expected = (torch.nan_to_num(state.logits, neginf=0) for state in (fixed, plain))
            if not logits_agree(ours, expected, policy.model.dtype):
                return f"{name} computes something else in buffers of a fixed size"
            if not torch.equal(sample(fixed.logits, sampling, noise[:, 0])[0], step.tokens):
                return f"captured steps sample something else ({sampling})"
    return ""


def captured_steps(
    policy: Policy, prompts: DecodingState, sampling: Sampling, noise: Tensor, stop_ids: set[int]
) -> list[tuple[list[int], list[int], Tensor]]:
    """Sample completions of prompts that have been read.

    Finished rows stay in the batch until the buffers are full or the batch is large and half of it has finished.

    Args:
        policy: The policy that generates, in eval mode.
        prompts: State of the prompts, which loses its keys and values.
        sampling: Settings of sampling.
        noise: Uniform on [0, 1), in float64, `(B, T)`.
        stop_ids: Tokens that end a completion.

    Returns:
        For each step the rows, one token per row, and their log-probabilities; also of rows that had finished before.
    """
    state: DecodingState | FixedState = prompts
    tokens, scores = sample(state.logits, sampling, noise[:, 0])
    rows, written = list(range(len(noise))), tokens.tolist()
    steps: list[tuple[list[int], list[int], Tensor]] = [(rows, written, scores)]
    going = _unfinished(rows, written, stop_ids)
    while going and len(steps) < noise.shape[1]:
        room = min(max(ROOM, state.length // 4), noise.shape[1] - len(steps))
        rows, tokens, noise = [rows[index] for index in going], tokens[going], noise[going]
        state = FixedState(state, going, _rounded(state.length + room) - state.length)
        going = list(range(len(rows)))
        step = RecordedStep(policy, state, tokens, sampling, noise, len(steps))
        for _ in range(room):
            scores = step().clone()
            written = step.tokens.tolist()
            steps.append((rows, written, scores))
            going = _unfinished(going, written, stop_ids)
            if not going or (len(rows) > ROWS and 2 * len(going) <= len(rows)):
                break
        tokens = step.tokens
        del step  # its memory serves the next one
    return steps


class RecordedStep:
    """Appends the latest token of each row, and samples the next. On a GPU all but the first call replay a graph.

    Args:
        policy: The policy that generates.
        state: The state that grows.
        tokens: The latest tokens, `(B,)`.
        sampling: Settings of sampling.
        noise: Uniform on [0, 1), in float64, `(B, T)`.
        step: Which of the T tokens comes next.
    """

    tokens: Tensor
    """The latest tokens, `(B,)`; the next call overwrites them."""

    def __init__(
        self, policy: Policy, state: FixedState, tokens: Tensor, sampling: Sampling, noise: Tensor, step: int
    ) -> None:
        self.policy, self.state, self.sampling, self.noise = policy, state, sampling, noise
        self.tokens = tokens.clone()
        self.scores = state.logits.new_empty(len(tokens))
        self.step = torch.tensor([step], device=tokens.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.launched = False

    def __call__(self) -> Tensor:
        """Sample the next tokens; their log-probabilities `(B,)`, which the next call overwrites."""
        if self.launched and self.graph is None and self.tokens.device.type == "cuda":
            self.graph = self._record()
        if self.graph is None:
            self._launch()  # for the first time, which may also prepare what cannot be prepared within a recording
            self.launched = True
        else:
            self.graph.replay()
        return self.scores

    def _launch(self) -> None:
        self.policy.advance(self.state, self.tokens)
        noise = self.noise.index_select(1, self.step).squeeze(1)
        tokens, scores = sample(self.state.logits, self.sampling, noise)
        self.tokens.copy_(tokens)
        self.scores.copy_(scores)
        self.step.add_(1)

    def _record(self) -> torch.cuda.CUDAGraph:
        keeper, stream = _recorder(self.tokens.device)
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(self.tokens.device))
        # `torch.cuda.graph` would also give all free memory back to the device, which training then asks for again.
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=keeper.pool(), capture_error_mode="thread_local")
            try:
                self._launch()
            finally:
                graph.capture_end()
        return graph


@cache
def _recorder(device: torch.device) -> tuple[torch.cuda.CUDAGraph, torch.cuda.Stream]:
    """A stream to record on, and a graph that keeps the memory of those before for those to come."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        torch.zeros(1, device=device)
        graph.capture_end()
    return graph, stream


@contextmanager
def _waiting_fails(device: torch.device) -> Iterator[None]:
    """Raise an error where the process waits for the device, which cannot be recorded."""
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it may miss some
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _unfinished(going: Sequence[int], written: Sequence[int], stop_ids: set[int]) -> list[int]:
    return [index for index in going if written[index] not in stop_ids]


def _rounded(width: int) -> int:
    """Attention with a mask is fast at multiples of this width."""
    return -(-width // 64) * 64
