"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.losses import HeadLoss, Reduction, cross_entropy, token_weights
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.records import Example, TokenSequence

__all__ = ["SFTModule"]


class SFTModule(CausalLMModule):
    """SFT: `- sum_t log pi(c_t | c_<t, x)` on the tokens of the demonstration c, given the prompt x.

    Args:
        model: See :class:`CausalLMModule`.
        reduction: ``token`` takes the mean over all demonstration tokens of an optimizer step, ``sequence`` the mean
            over each demonstration's tokens, then over demonstrations.
        packing: Whether the sequences of a micro-batch lie one behind the other in one row, each attending to itself,
            which saves the padding; the loss stays the same. Meant for ``attention`` of ``flash_attention_2`` or
            ``flex_attention``: with others, its time and memory grow with the square of the row. A model that cannot
            keep the sequences of a row apart is refused.
        **kwargs: See :class:`CausalLMModule`.
    """

    def __init__(self, model: str, reduction: Reduction = "token", packing: bool = False, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.reduction = reduction
        self.packing = packing
        self.group_sequences: list[TokenSequence] = []

    def training_step(self, examples: Sequence[Example], batch_idx: int) -> Tensor:
        """Raise the likelihood of the demonstrations."""
        batch = MicroBatch.of(examples)
        sequences = self.sequences(batch)
        targets = torch.tensor([token for sequence in sequences for token in sequence.completion], device=self.device)
        weights = self.weights(sequences)
        with self.clock.phase("student"):
            hidden = self.policy.hidden(sequences, self.packing)
            result = self.loss(hidden, targets, weights)
        return self.finish_step(batch, result, weights, {"nll": "train/nll", "entropy": "student/entropy"})

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> HeadLoss:
        """The loss of target tokens `(N,)` from hidden states `(N, D)`."""
        return cross_entropy(hidden, self.policy.head, targets, weights)

    def sequences(self, batch: MicroBatch) -> list[TokenSequence]:
        """Demonstrations of a micro-batch; the first micro-batch of a group encodes all of it, and sorts it by length.

        Not where they are packed: there is no padding to save, and no micro-batch should have all the long ones.
        """
        if self.group is not batch.group:
            sequences = self.demonstrations(batch.group)
            lengths = [len(sequence) for sequence in sequences]
            self.start_group(batch.group, [len(sequence.completion) for sequence in sequences])
            self.group_sequences = sequences if self.packing else batch.sort_group(sequences, lengths)
        return self.group_sequences[batch.start : batch.stop]

    def demonstrations(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """Prompts with their demonstrations as completions."""
        shown = [(each.prompt, each.demonstration) for each in examples if each.demonstration is not None]
        prompts = self.tokenizer.encode_all([prompt for prompt, _ in shown])
        completions = [self.tokenizer.encode_completion(demonstration) for _, demonstration in shown]
        return list(map(TokenSequence, prompts, completions))

    def weights(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Weights of the demonstration tokens of a micro-batch, `(N,)`."""
        lengths = [len(sequence.completion) for sequence in sequences]
        group = [len(sequence.completion) for sequence in self.group_sequences]
        weights = token_weights(lengths, self.reduction, group_lengths=group, group_tokens=self.group_tokens)
        return weights.to(self.device)

    def check_policy(self) -> None:
        """Refuse a model that cannot read what the arguments ask for."""
        super().check_policy()
        if self.packing:
            self.policy.check_packing()

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit the prompt budget or the completion budget, or ``None``."""
        return self.completion_problem(example) or super().training_problem(example)
