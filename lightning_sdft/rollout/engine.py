"""In-process generation: the policy that trains also samples, with its own weights and precision.

Letters: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sdft.policy import Policy, evaluating
from lightning_sdft.rollout.record import Rollout, Sampling

__all__ = ["generate"]


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Sequence[list[int]],
    max_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
) -> list[Rollout]:
    """Write a completion of each prompt; rows that are finished leave the batch.

    The noise of a sequence's n-th token depends on its seed and n alone, so a rollout does not depend on who else is
    in the batch (beyond floating point).

    Args:
        policy: Who writes.
        prompts: Token ids of each prompt.
        max_tokens: Completions are truncated at this length.
        sampling: How tokens are drawn.
        seeds: Seed of each sequence; by default drawn from torch's global generator.
    """
    if seeds is None:
        seeds = draw_seeds(len(prompts)) if sampling.temperature else [0] * len(prompts)
    noise = _noise(seeds, max_tokens).to(policy.device)
    completions: list[list[int]] = [[] for _ in prompts]
    log_probabilities: list[list[float]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = list(range(len(prompts)))
    with evaluating(policy):
        state = policy.prefill(prompts)
        for step in range(max_tokens):
            tokens, chosen = sample(state.logits, sampling, noise[rows, step])
            for row, token, log_probability in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
                completions[row].append(token)
                log_probabilities[row].append(log_probability)
                finished[row] = token in policy.tokenizer.stop_ids
            going = [index for index, row in enumerate(rows) if not finished[row]]
            if not going or step == max_tokens - 1:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=policy.device)
                state.keep(kept)
                tokens, rows = tokens[kept], [rows[index] for index in going]
            policy.advance(state, tokens)
    return [
        Rollout(prompt, completion, scores, done)
        for prompt, completion, scores, done in zip(prompts, completions, log_probabilities, finished, strict=True)
    ]


def draw_seeds(count: int) -> list[int]:
    """Seeds from torch's global generator, which a checkpoint restores."""
    return torch.randint(2**62, (count,)).tolist()


def sample(logits: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: `(B, V)`.
        sampling: How to draw.
        noise: Uniform on [0, 1), `(B,)`.

    Returns:
        The tokens `(B,)` and their log-probabilities under the distribution that was drawn from `(B,)`.
    """
    if sampling.temperature == 0:
        scores, tokens = torch.log_softmax(logits, -1).max(-1)
        return tokens, scores
    scores = torch.log_softmax(_restrict(logits / sampling.temperature, sampling), -1)
    cumulative = scores.double().exp().cumsum(-1)
    # Scaled by the total, which rounding leaves beside 1. Strictly greater, so a token of probability 0 is never drawn.
    tokens = (cumulative <= (noise * cumulative[:, -1])[:, None]).sum(-1)
    return tokens, scores.gather(-1, tokens[:, None]).squeeze(-1)


def _restrict(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with -inf where top-k, min-p or top-p exclude a token."""
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.min_p:
        probabilities = logits.softmax(-1)
        excluded = probabilities < sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(excluded, -torch.inf)
    if sampling.top_p < 1:
        probabilities, order = logits.softmax(-1).sort(-1, descending=True)
        excluded = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(excluded.scatter(-1, order, excluded), -torch.inf)
    return logits


def _noise(seeds: Sequence[int], max_tokens: int) -> Tensor:
    """Uniform noise `(B, T)`, each row from its own seed."""
    rows = [
        torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds
    ]
    return torch.stack(rows)
