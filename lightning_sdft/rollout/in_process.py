"""In-process generation: the policy being trained samples by itself, with its own weights and precision.

Letters: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from lightning_sdft.distributed.processes import process_count, process_index
from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.policy import Policy
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.inference import casting_once, evaluating
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout.base import RolloutEngine
from lightning_sdft.rollout.captured import captured_steps, worth_capturing
from lightning_sdft.rollout.sampling import sample

__all__ = ["InProcessEngine", "draw_seeds", "generate", "generate_ways", "own_seeds"]


@dataclass
class InProcessEngine(RolloutEngine):
    """Samples from the policy itself with :func:`generate`."""

    exact: ClassVar[bool] = True

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        """Sample a completion of each prompt; see :meth:`RolloutEngine.generate`."""
        return generate(policy, prompts, max_tokens, sampling, seeds)


torch.serialization.add_safe_globals([InProcessEngine])  # checkpoints store it in their hyperparameters


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[list[int]],
    max_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
) -> list[Rollout]:
    """Generate a completion of each prompt.

    Equal prompts are computed once, and finished sequences leave the batch. On a GPU, a step is launched as a whole
    where the model permits (:mod:`lightning_sdft.rollout.captured`). The noise of a sequence's n-th token
    depends only on the sequence's seed and on n, so apart from floating-point rounding a rollout does not depend on
    the other sequences in the batch. A sharded policy is gathered once for the whole call, and under autocast the
    trained weights are cast once.

    Args:
        policy: The policy that generates.
        prompts: Token ids of each prompt.
        max_tokens: Completions are truncated at this length.
        sampling: Settings of sampling.
        seeds: Random seed of each sequence; by default drawn from torch's global generator.
    """
    if seeds is None:
        seeds = draw_seeds(len(prompts)) if sampling.temperature else [0] * len(prompts)
    return generate_ways(policy, prompts, max_tokens, [(sampling, len(prompts))], seeds)[0]


@torch.no_grad()
def generate_ways(
    policy: Policy,
    prompts: Sequence[list[int]],
    max_tokens: int,
    ways: Sequence[tuple[Sampling, int]],
    seeds: Sequence[int],
) -> list[list[Rollout]]:
    """Generate completions of the same prompts in several ways, for which the prompts are read once.

    Args:
        policy: The policy that generates.
        prompts: Token ids of each prompt.
        max_tokens: Completions are truncated at this length.
        ways: Settings of sampling, each with the number of prompts, from the first one on, that are completed so.
        seeds: Random seed of each prompt, the same in all ways.

    Returns:
        For each way what :func:`generate` returns.
    """
    noise = _noise(seeds, max_tokens).to(policy.device)
    stop_ids = policy.tokenizer.stop_ids
    results: list[list[Rollout]] = []
    with unsharded(policy), evaluating(policy), casting_once(policy.device):
        states = policy.prefill_each(prompts, [count for _, count in ways])
        for (sampling, count), state in zip(ways, states, strict=True):
            decode = captured_steps if worth_capturing(policy, sampling, max_tokens) else plain_steps
            steps = decode(policy, state, sampling, noise[:count], stop_ids)
            results.append(_rollouts(prompts[:count], steps, stop_ids))
    return results


def plain_steps(
    policy: Policy, state: DecodingState, sampling: Sampling, noise: Tensor, stop_ids: set[int]
) -> list[tuple[list[int], list[int], Tensor]]:
    """Sample completions of prompts that have been read; see :func:`lightning_sdft.rollout.captured.captured_steps`.

    Finished rows leave the batch at once.
    """
    rows, max_tokens = list(range(len(noise))), noise.shape[1]
    steps: list[tuple[list[int], list[int], Tensor]] = []
    for step in range(max_tokens):
        tokens, scores = sample(state.logits, sampling, noise[:, step])
        written = tokens.tolist()
        steps.append((rows, written, scores))
        going = [index for index, token in enumerate(written) if token not in stop_ids]
        if not going or step == max_tokens - 1:
            break
        if len(going) < len(rows):
            kept = state.keep(going)
            rows, tokens, noise = [rows[index] for index in kept], tokens[kept], noise[kept]
        policy.advance(state, tokens)
    return steps


def draw_seeds(count: int) -> list[int]:
    """Draw seeds from torch's global generator, whose state checkpoints save and restore."""
    return torch.randint(2**62, (count,), device="cpu").tolist()


def own_seeds(count: int, generations: int = 1) -> list[int]:
    """Draw the seeds of an optimizer step on all processes, and return those of this process.

    Each process draws the seeds of the whole step and uses those of its own examples, every n-th one. So rollouts do
    not depend on the number of processes, and all processes stay at the same point of the same random stream.

    Args:
        count: Number of examples of each process.
        generations: Number of seeds for each example, which follow one another.
    """
    drawn = draw_seeds(count * process_count() * generations)
    own = range(process_index(), count * process_count(), process_count())
    return [seed for place in own for seed in drawn[place * generations : (place + 1) * generations]]


def _rollouts(
    prompts: Sequence[list[int]], steps: Sequence[tuple[list[int], list[int], Tensor]], stop_ids: set[int]
) -> list[Rollout]:
    """Assemble rollouts from decoding steps, each of which has rows, one token per row, and log-probabilities.

    What a row has written after its end does not count.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    log_probabilities: list[list[float]] = [[] for _ in prompts]
    scores = iter(torch.cat([scores for _, _, scores in steps]).tolist())
    for rows, written, _ in steps:
        for row, token, score in zip(rows, written, islice(scores, len(rows)), strict=True):
            if not completions[row] or completions[row][-1] not in stop_ids:
                completions[row].append(token)
                log_probabilities[row].append(score)
    return [
        Rollout(prompt, completion, scores, completion[-1] in stop_ids)
        for prompt, completion, scores in zip(prompts, completions, log_probabilities, strict=True)
    ]


def _noise(seeds: Sequence[int], max_tokens: int) -> Tensor:
    """Uniform noise `(B, T)`, each row drawn with its own seed."""
    rows = [
        torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
        for seed in seeds
    ]
    return torch.stack(rows)
