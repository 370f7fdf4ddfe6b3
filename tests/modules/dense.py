"""What the modules must agree with: each sequence alone, without padding, through the whole model, with autograd."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.policy import Policy
from tests.conftest import VOCABULARY


def token_ids(text: str) -> list[int]:
    """Token ids of words; what is not in the vocabulary becomes the padding token."""
    return [VOCABULARY.index(word) if word in VOCABULARY else 0 for word in text.split()]


def log_probabilities(model: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Tensor:
    """Of the next token at the positions that predict the completion, `(N, V)`."""
    tokens = torch.tensor([prompt + completion])
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def check(policy: Policy, loss: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare a loss and its gradient in every weight of the policy with the expected ones."""
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    parameters = list(policy.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters) for each in (loss, expected))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    assert scale > 1e-3
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance * scale)


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
