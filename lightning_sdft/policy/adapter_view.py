"""A view of a policy that uses another adapter, or none, with the same model and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_sdft.losses.head import Head
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.fixed_decoding import FixedState
from lightning_sdft.policy.lora import adapted_layers, using_adapter
from lightning_sdft.policy.policy import Policy
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.records import TokenSequence

__all__ = ["AdapterView"]


class AdapterView(Policy):
    """The same policy computing with another adapter, without a copy of its weights and without gradient.

    Args:
        policy: A policy whose model has adapters. The view shares its weights, so a module must not register both.
        adapter: Name of the adapter to use; ``None`` uses the model without any adapter.
    """

    def __init__(self, policy: Policy, adapter: str | None) -> None:
        nn.Module.__init__(self)  # the policy has been checked
        names = ("model", "tokenizer", "unnamed_ids", "filler", "scale", "soft_cap")
        for name in (*names, "reads_trees", "probing", "longest_tree", "pair_cost"):
            setattr(self, name, getattr(policy, name))
        self.adapter = adapter
        self.layers = adapted_layers(policy.model)

    @property
    def head(self) -> Head:
        """The output head, which turns hidden states into logits."""
        with using_adapter(self.layers, self.adapter):
            return super().head

    @torch.no_grad()  # gradient checkpointing would recompute with whichever adapter is in use by then
    def hidden(self, sequences: Sequence[TokenSequence], packed: bool = False, prefix: Prefix | None = None) -> Tensor:
        """Hidden states at the positions that predict completion tokens; see :meth:`Policy.hidden`."""
        with using_adapter(self.layers, self.adapter):
            return super().hidden(sequences, packed, prefix)

    @torch.no_grad()
    def share_prefix(self, batches: Sequence[Sequence[TokenSequence]]) -> Prefix | None:
        """Read what the sequences of several micro-batches begin with; see :meth:`Policy.share_prefix`."""
        with using_adapter(self.layers, self.adapter):
            return super().share_prefix(batches)

    def prefill_each(self, prompts: Sequence[list[int]], counts: Sequence[int]) -> Iterator[DecodingState]:
        """Run the model on prompts to generate from them several times; see :meth:`Policy.prefill_each`."""
        with using_adapter(self.layers, self.adapter):
            return super().prefill_each(prompts, counts)

    def advance(self, state: DecodingState | FixedState, tokens: Tensor) -> None:
        """Append one token to each sequence and compute the logits of the next; see :meth:`Policy.advance`."""
        with using_adapter(self.layers, self.adapter):
            super().advance(state, tokens)
