"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_sdft.data.groups import Group, Item, MicroBatch
from lightning_sdft.losses import HeadLoss, Reduction, cross_entropy, token_weights
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.modules.step_means import mean_tokens
from lightning_sdft.policy.probe import check_packing
from lightning_sdft.records import Example

__all__ = ["SFTModule"]


class SFTModule(CausalLMModule):
    """SFT: `- sum_t log pi(c_t | c_<t, x)` on the tokens of the demonstration c, given the prompt x.

    Args:
        model: See :class:`CausalLMModule`.
        reduction: ``token`` takes the mean over all demonstration tokens of an optimizer step, ``sequence`` takes the
            mean over each demonstration's tokens, then over demonstrations.
        packing: Whether to pack the sequences of a micro-batch into one row, each attending only to itself, which saves
            the padding; the loss stays the same. Meant for ``attention`` of ``flash_attention_2`` or
            ``flex_attention``: with others, time and memory grow with the square of the row's length. A model that
            cannot keep the sequences of a row apart is refused.
        **kwargs: See :class:`CausalLMModule`.
    """

    def __init__(self, model: str, reduction: Reduction = "token", packing: bool = False, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.reduction = reduction
        self.packing = packing

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Raise the likelihood of the demonstrations."""
        self.fill(batch.group)
        weights = self.weights(batch)
        with self.clock.phase("student"):
            hidden = self.policy.hidden(batch.student_sequences, self.packing, self.prefixes.student)
            result = self.loss(hidden, batch.targets().to(self.device), weights)
        total = result.loss + self.retained_loss(batch)
        return self.finish_step(batch, total, result, weights, {"nll": "train/nll", "entropy": "student/entropy"})

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> HeadLoss:
        """The loss of target tokens `(N,)` from hidden states `(N, D)`."""
        return cross_entropy(hidden, self.policy.head, targets, weights)

    def fill(self, group: Group) -> None:
        """Encode the demonstrations of a group, unless that is done already."""
        if group.items:
            return
        sequences = self.demonstrations(group.examples)
        tokens = mean_tokens([len(each) for each in self.in_loss(sequences)], self.device)
        # Packing leaves no padding to save by sorting, which would only put all long sequences into one micro-batch.
        group.fill(list(map(Item, group.examples, sequences)), tokens, by_length=not self.packing)
        if not self.packing:
            self.share_prefixes(group)

    def weights(self, batch: MicroBatch) -> Tensor:
        """Weights of the demonstration tokens of a micro-batch, `(N,)`."""
        weights = token_weights(
            batch.completion_lengths,
            self.reduction,
            group_lengths=batch.group.completion_lengths,
            group_tokens=batch.group.tokens,
            places=self.in_loss(batch.student_sequences),
        )
        return weights.to(self.device)

    def check_policy(self) -> None:
        """Refuse a model that cannot do what the arguments ask for."""
        super().check_policy()
        if self.packing:
            check_packing(self.policy)

    def training_problem(self, example: Example) -> str | None:
        """Why an example does not fit the prompt budget or the completion budget, or ``None``."""
        return self.completion_problem(example) or super().training_problem(example)
