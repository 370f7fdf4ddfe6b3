"""How surprised a policy is at given texts: the loss that validation shows where answers cannot be graded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_sdft.losses import cross_entropy
from lightning_sdft.policy import Policy, Tokenizer
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import Example, TokenSequence

__all__ = ["demonstrated", "token_losses"]

BATCH_TOKENS = 8192
"""Tokens read at once, padding included, unless a single sequence is longer."""


def demonstrated(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[TokenSequence]:
    """Prompts with their demonstrations as completions."""
    shown = [(each.prompt, each.demonstration) for each in examples if each.demonstration is not None]
    prompts = tokenizer.encode_all([prompt for prompt, _ in shown])
    completions = [tokenizer.encode_completion(demonstration) for _, demonstration in shown]
    return list(map(TokenSequence, prompts, completions))


@torch.no_grad()
def token_losses(policy: Policy, sequences: Sequence[TokenSequence]) -> Tensor:
    """`-log p(y_t | prompt, y_<t)` of all tokens of the completions y, shorter sequences first, `(N,)`."""
    losses = [torch.zeros(0, device=policy.device)]
    with evaluating(policy):
        for part in _batches(sorted(sequences, key=len)):
            hidden = policy.hidden(part)
            targets = torch.tensor([token for each in part for token in each.completion], device=hidden.device)
            weights = torch.ones(len(hidden), device=hidden.device)
            losses.append(cross_entropy(hidden, policy.head, targets, weights).values)
    return torch.cat(losses)


def _batches(ordered: Sequence[TokenSequence]) -> Iterator[Sequence[TokenSequence]]:
    """Cut sequences that are ordered by length into batches."""
    batch: list[TokenSequence] = []
    for sequence in ordered:
        if batch and len(sequence) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch
