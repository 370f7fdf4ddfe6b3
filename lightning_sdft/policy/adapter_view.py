"""A policy's model and weights, seen with another adapter or with none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_sdft.losses.head import Head
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.lora import adapted_layers, using_adapter
from lightning_sdft.policy.policy import Policy
from lightning_sdft.records import TokenSequence

__all__ = ["AdapterView"]


class AdapterView(Policy):
    """What a policy would be with another adapter in use, without a copy of its weights and without gradient.

    Args:
        policy: A policy whose model has adapters. Its weights are the view's too, so a module must not register both.
        adapter: Name of the adapter; without one, the view is the model as it was before it had adapters.
    """

    def __init__(self, policy: Policy, adapter: str | None) -> None:
        nn.Module.__init__(self)
        self.model = policy.model
        self.tokenizer = policy.tokenizer
        self.adapter = adapter
        self.layers = adapted_layers(policy.model)

    @property
    def head(self) -> Head:
        """What turns hidden states into logits."""
        with using_adapter(self.layers, self.adapter):
            return super().head

    @torch.no_grad()  # what gradient checkpointing computes anew, it would compute with the adapter in use by then
    def hidden(self, sequences: Sequence[TokenSequence], packed: bool = False) -> Tensor:
        """Hidden states at the positions that predict completion tokens; see :meth:`Policy.hidden`."""
        with using_adapter(self.layers, self.adapter):
            return super().hidden(sequences, packed)

    def prefill(self, prompts: Sequence[list[int]]) -> DecodingState:
        """Read prompts, to generate from them; see :meth:`Policy.prefill`."""
        with using_adapter(self.layers, self.adapter):
            return super().prefill(prompts)

    def advance(self, state: DecodingState, tokens: Tensor) -> None:
        """Append one token to each sequence and compute the logits of the next; see :meth:`Policy.advance`."""
        with using_adapter(self.layers, self.adapter):
            super().advance(state, tokens)
