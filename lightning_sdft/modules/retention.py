"""Keeps what the model could do before: while it learns, the base model teaches it on general prompts.

[1] Lu and Thinking Machines Lab, On-Policy Distillation, 2025, https://thinkingmachines.ai/blog/on-policy-distillation/
    restores abilities in this way after fine-tuning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.general import read_prompts
from lightning_sdft.data.groups import Group, MicroBatch
from lightning_sdft.distributed.processes import process_count, process_index
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.losses import Divergence, ForwardKL, distillation_loss
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example, TokenSequence
from lightning_sdft.settings import Count, Positive, Seed, check_ranges

__all__ = ["Respond", "Retention", "RetentionLoss"]

SETTING = "retention.data"
"""The name of the setting, for errors."""

Respond = Callable[[Sequence[Example]], Sequence[TokenSequence]]
"""Has the student answer examples, sampled as in training."""


@dataclass(frozen=True)
class Retention:
    """Adds to the loss of each step the divergence of the student from the base model on general prompts [1].

    `weight / P sum_p 1 / T_p sum_t D(p_base || p_student)` over P prompts, each with T_p tokens of the student's own
    answer. It is re-invocation [1] while the model learns, and not afterwards. The base model is the one that training
    started from; with ``lora`` it is the model without the adapter, otherwise a second copy.

    Args:
        data: Where the prompts are: a file, folder or hub id, read as by :class:`GeneralDataModule`, or a data module,
            of which the training prompts are used. By default they are those of the step itself, so that the student
            is held near the base model on what it learns (a KL anchor).
        prompts: Prompts per optimizer step, over all processes.
        weight: Weight of the divergence beside the method's own loss.
        divergence: The divergence; by default ``ForwardKL``.
        seed: Seed for the order of the prompts.

    Raises:
        SettingError: If a number is out of range.
    """

    data: str | DemonstrationDataModule | None = field(default=None, compare=False)  # checkpoints have no data module
    prompts: Count = 8
    weight: Positive = 1.0
    divergence: Divergence = ForwardKL()  # noqa: RUF009  # frozen
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(Retention, vars(self))

    def examples(self) -> Sequence[Example]:
        """The prompts; none if those of the step are used."""
        if self.data is None:
            return ()
        if isinstance(self.data, str):
            return read_prompts(self.data, argument=SETTING, setting=SETTING)
        self.data.setting = SETTING
        return self.data.splits.train

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave a data module out of checkpoints, which hold only plain settings; the saved config has it."""
        data = self.data if isinstance(self.data, str) else None
        return Retention, (data, self.prompts, self.weight, self.divergence, self.seed)


torch.serialization.add_safe_globals([Retention])  # checkpoints store it, and are loaded with weights_only=True


class RetentionLoss:
    """Computes the loss of :class:`Retention` for one micro-batch after another.

    Args:
        settings: The settings.
        problem: Why a prompt is over its budget, or ``None``.

    Raises:
        DataError: If there are fewer prompts than a step needs, or one cannot be read or is over its budget.
        SettingError: If the prompts cannot be shared by the processes.
    """

    def __init__(self, settings: Retention, problem: Callable[[Example], str | None]) -> None:
        self.settings = settings
        self.examples = settings.examples()
        if settings.prompts % process_count():
            raise SettingError(
                f"retention.prompts={settings.prompts} cannot be shared by {process_count()} processes evenly"
            )
        if settings.data is not None and len(self.examples) < settings.prompts:
            raise DataError(
                f"retention.data has {count_text(len(self.examples), 'prompt')}, fewer than "
                f"retention.prompts={settings.prompts}"
            )
        over = [(each.id, found) for each in self.examples if (found := _problem(each, problem)) is not None]
        if over:
            raise DataError(
                f"{len(over)} of {len(self.examples)} prompts of retention.data are over a token budget, the first is "
                f"{over[0][0]!r}: {over[0][1]}. Raise the budget, or leave them out"
            )

    def __call__(self, batch: MicroBatch, step: int, student: Policy, base: Policy, respond: Respond) -> Tensor:
        """The weighted loss of a micro-batch's share of the prompts.

        Args:
            batch: The micro-batch; the first one of a group has the student answer the prompts of the step.
            step: The number of optimizer steps taken.
            student: The student.
            base: The model that training started from.
            respond: Has the student answer.
        """
        group = batch.group
        if not group.retained:
            group.retained = tuple(respond(self.drawn(group, step)))
        sequences = group.retained[batch.index :: group.micro_batches]
        if not sequences:  # more micro-batches than prompts
            return torch.zeros((), device=student.device)
        with torch.no_grad(), evaluating(base):
            base_hidden = base.hidden(sequences)
        hidden = student.hidden(sequences)
        # Losses of micro-batches are averaged, and these need not have the same number of prompts.
        share = self.settings.weight * group.micro_batches / len(group.retained)
        lengths = [len(each.completion) for each in sequences]
        weights = torch.cat([torch.full((length,), share / length, device=hidden.device) for length in lengths])
        return distillation_loss(hidden, student.head, base_hidden, base.head, weights, self.settings.divergence).loss

    def drawn(self, group: Group, step: int) -> list[Example]:
        """This process's prompts of a step: all prompts in a random order, then all in another order, and so on.

        They depend only on the step and the seed, so that a run that goes on draws the same ones.
        """
        count, own = self.settings.prompts, slice(process_index(), None, process_count())
        if self.settings.data is None:
            return list(group.examples[: count // process_count()])
        size = len(self.examples)
        places = range(step * count, (step + 1) * count)[own]
        orders = {epoch: self._order(epoch) for epoch in {place // size for place in places}}
        return [self.examples[orders[place // size][place % size]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        return random.Random(f"{self.settings.seed}/{epoch}").sample(range(len(self.examples)), len(self.examples))


def _problem(example: Example, problem: Callable[[Example], str | None]) -> str | None:
    """Why a prompt is over its budget, or ``None``; an error of the tokenizer or the chat template names the row."""
    try:
        return problem(example)
    except DataError as error:
        where = example.where or f"example {example.id!r}"
        raise DataError(f"{where}, in {SETTING}: {error}; leave it out of {SETTING}") from error
