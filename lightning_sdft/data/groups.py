"""Generation groups: the prompts of one optimizer step, delivered in micro-batches that know their group.

On-policy training samples once for all prompts of an optimizer step (one large decoding batch) and trains on them in
micro-batches (small activations). So the loader draws a whole group and hands it out piece by piece; whoever needs
something of the whole group (rollouts, the number of target tokens) finds it through the piece. Lengths are known only
then, so it is whoever computes who sorts the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from lightning_sdft.data.example import Example

__all__ = ["GroupLoader", "MicroBatch"]

T = TypeVar("T")


class MicroBatch(Sequence[Example]):
    """A view of consecutive examples of a generation group.

    Args:
        group: All examples of the optimizer step on this process; its micro-batches share this very list.
        start: Index of the first example of the view.
        stop: Index behind the last one.
    """

    def __init__(self, group: list[Example], start: int = 0, stop: int | None = None) -> None:
        self.group = group
        self.start = start
        self.stop = len(group) if stop is None else stop

    @classmethod
    def of(cls, batch: Sequence[Example]) -> MicroBatch:
        """The batch itself, or one of a plain loader as a group of its own."""
        return batch if isinstance(batch, MicroBatch) else cls(list(batch))

    @classmethod
    def cut(cls, group: Sequence[Example], size: int) -> list[MicroBatch]:
        """The micro-batches of a group, of a size that divides it."""
        shared = list(group)
        return [cls(shared, start, start + size) for start in range(0, len(shared), size)]

    def to(self, device: object, **kwargs: object) -> MicroBatch:
        """Stay: examples hold text, no tensors. Lightning asks every batch to move."""
        return self

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after this micro-batch."""
        return self.stop == len(self.group)

    def sort_group(self, belongings: Sequence[T], lengths: Sequence[int]) -> list[T]:
        """Put the longest examples of the group first, so that a micro-batch holds examples of like length.

        All micro-batches of the group see the new order, for they are views of it. Examples of the same length keep
        their order, and a group of a single micro-batch stays as it is.

        Args:
            belongings: What belongs to each example of the group.
            lengths: Length of each example of the group.

        Returns:
            The belongings in the order in which the examples are now.
        """
        if len(self) == len(self.group):
            return list(belongings)
        order = sorted(range(len(self.group)), key=lambda index: -lengths[index])
        self.group[:] = [self.group[index] for index in order]
        return [belongings[index] for index in order]

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self.group[self.start : self.stop][index]


def identity(examples: list[Example]) -> list[Example]:
    """The collate function: a batch is a list of examples, for padding is a matter of whoever computes."""
    return examples


class GroupLoader:
    """Iterates over the micro-batches of one generation group after another; its position can be saved and restored.

    Examples that do not fill a last group are left out of the epoch (others in each, for the order is shuffled).

    Args:
        examples: The training examples.
        group_size: Examples per optimizer step on this process.
        micro_batch_size: Examples per forward and backward pass; must divide ``group_size``.
        sampler: Order of the examples on this process.
        workers: Loading processes.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        group_size: int,
        micro_batch_size: int,
        sampler: StatefulDistributedSampler,
        workers: int = 0,
    ) -> None:
        self.group_size = group_size
        self.micro_batch_size = micro_batch_size
        self.sampler = sampler  # Lightning sets its epoch
        self.groups = StatefulDataLoader(
            examples,
            batch_size=group_size,
            sampler=sampler,
            drop_last=True,
            num_workers=workers,
            collate_fn=identity,
            # Otherwise each epoch draws a seed for workers from the generator that rollouts are drawn with, and a
            # resumed epoch once more.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return len(self.groups) * (self.group_size // self.micro_batch_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        for group in self.groups:
            yield from MicroBatch.cut(group, self.micro_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The position, which is exact between two groups."""
        state: dict[str, Any] = self.groups.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last group that the saved loader had handed out."""
        self.groups.load_state_dict(state)
