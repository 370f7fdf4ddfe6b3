"""What all sequences of an optimizer step begin with, read once for all of its micro-batches.

A system prompt, the documentation of tools or an article stands before every prompt. The model reads it once, and each
micro-batch attends to its keys and values `K`. The gradients of the micro-batches' losses `L_m` gather in `K`, and go
back through the prefix once, behind the last of them:

    dL/dw = sum_m dL_m/dw (K constant) + (sum_m dL_m/dK) dK/dw

Letters: B sequences, H heads of keys and values, P tokens of the prefix, T tokens behind it, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lightning_sdft.policy.common_prefix import common_prefix
from lightning_sdft.policy.decoding import cache_argument, full_cache
from lightning_sdft.policy.layout import SPARED, WORTH, Layout
from lightning_sdft.records import TokenSequence

__all__ = ["Prefix", "worth_sharing"]

Trees = Callable[[Sequence[TokenSequence]], Sequence[Sequence[int]] | None]


class Prefix:
    """The keys and values of tokens that a model has read, for sequences that go on behind them.

    Args:
        model: The model, which reads the tokens now, with gradient if that is on.
        tokens: The tokens.
        device: The device that computes.

    Raises:
        PolicyError: If the model has layers that keep a state other than keys and values.
    """

    def __init__(self, model: Any, tokens: Sequence[int], device: torch.device) -> None:
        self.tokens = list(tokens)
        cache, self.layers = full_cache(model, BranchingLayer)
        self.inputs = {"use_cache": True, cache_argument(model): cache}
        model.base_model(input_ids=torch.tensor([self.tokens], device=device), **self.inputs)
        for layer in self.layers:
            layer.cut()

    def __len__(self) -> int:
        return len(self.tokens)

    def behind(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        """What sequences have behind the prefix."""
        return [TokenSequence(each.prompt[len(self) :], each.completion) for each in sequences]

    def moved(self, layout: Layout) -> Layout:
        """The layout of what stands behind the prefix, at its true positions, seeing the whole prefix."""
        inputs = dict(layout.inputs)
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + len(self)
        return replace(layout, inputs=inputs | self.inputs, before=len(self))

    def backward(self) -> None:
        """Take the gradients that have gathered in the keys and values back through the prefix."""
        pairs = [pair for layer in self.layers for pair in layer.gathered()]
        if pairs:
            states, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(states, gradients)


class BranchingLayer(DynamicLayer):
    """Cache of one layer: it keeps what the model reads first, and what is read behind that only passes through."""

    keys: Tensor
    values: Tensor
    made: tuple[Tensor, Tensor] | None = None
    """The keys and values of the prefix as the model made them, `(1, H, P, D)` each."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values `(B, H, T, D)` behind those of the prefix: `(B, H, P + T, D)`."""
        if self.made is None:
            self.made = self.keys, self.values = key_states, value_states
            self.device, self.is_initialized = key_states.device, True
            return self.made
        own = ((self.keys, key_states), (self.values, value_states))
        keys, values = (torch.cat([kept.expand(len(read), -1, -1, -1), read], 2) for kept, read in own)
        return keys, values

    def cut(self) -> None:
        """Let gradients gather in the keys and values, instead of going back through the prefix at once."""
        if self.made is not None:
            self.keys, self.values = (each.detach().requires_grad_(each.requires_grad) for each in self.made)

    def gathered(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values as the model made them, with the gradients that have gathered, if there are any."""
        pairs = zip(self.made or (), (self.keys, self.values), strict=False)
        return [(made, kept.grad) for made, kept in pairs if kept.grad is not None]


def worth_sharing(batches: Sequence[Sequence[TokenSequence]], trees: Trees, pair: float) -> list[int]:
    """The tokens that all sequences of several micro-batches begin with, if it costs less to read them once.

    Behind a prefix attention takes a mask, and computes the masked half too.

    Args:
        batches: The sequences of each micro-batch.
        trees: Which sequences of a micro-batch are read together in a tree.
        pair: Cost of a pair of tokens in attention, as a share of that of a token.

    Returns:
        The tokens, none if it does not pay.
    """
    sequences = [each for batch in batches for each in batch]
    shared = common_prefix([each.prompt for each in sequences])
    masked = pair * sum(len(each) ** 2 / 2 for each in sequences)
    least = masked + max(SPARED, (1 - WORTH) * sum(map(len, sequences)))
    if len(shared) * (len(sequences) - 1) < least:
        return []
    reads = sum(len(trees(batch) or batch) for batch in batches)
    return shared if len(shared) * (reads - 1) >= least else []
