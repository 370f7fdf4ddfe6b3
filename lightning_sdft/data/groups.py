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
from torch.utils.data import DataLoader, DistributedSampler

from lightning_sdft.errors import DataError
from lightning_sdft.records import Example

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

    Examples that do not fill a last group are left out of the epoch (others in each, for the order is shuffled). The
    n-th groups of all processes together are the n-th group that one process alone would have, so a position is the
    same whatever the number of processes.

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
        sampler: DistributedSampler[Example],
        workers: int = 0,
    ) -> None:
        self.examples = examples
        self.group_size = group_size
        self.micro_batch_size = micro_batch_size
        self.sampler = sampler  # Lightning sets its epoch
        self.workers = workers
        self._start = 0  # of the next epoch that is iterated over
        self._finished = 0  # groups of the running epoch whose last micro-batch was handed out

    @property
    def group_count(self) -> int:
        """Groups per epoch."""
        return len(self.sampler) // self.group_size

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return self.group_count * (self.group_size // self.micro_batch_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        self._finished, self._start = self._start, 0
        return self._micro_batches()

    def _micro_batches(self) -> Iterator[MicroBatch]:
        order = list(self.sampler)  # only now, for Lightning asks for the iterator before it sets the epoch
        firsts = range(self._finished * self.group_size, self.group_count * self.group_size, self.group_size)
        groups: DataLoader[Example] = DataLoader(
            self.examples,  # type: ignore[arg-type]  # a sequence is all that a map-style loader asks for
            batch_sampler=[order[first : first + self.group_size] for first in firsts],
            num_workers=self.workers,
            collate_fn=identity,
            # Otherwise each epoch draws a seed for workers from the generator that rollouts are drawn with, and a
            # resumed epoch once more.
            generator=torch.Generator(),
        )
        for group in groups:
            *others, last = MicroBatch.cut(group, self.micro_batch_size)
            yield from others
            self._finished += 1
            yield last

    def state_dict(self) -> dict[str, Any]:
        """The position, which is exact between two groups, and what it is a position in."""
        return {"groups": self._finished, **self._epoch_shape()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last group that the saved loader had handed out.

        Raises:
            DataError: If that was in the middle of an epoch of another shape, where a position means something else.
        """
        shape = self._epoch_shape()
        saved = {name: state[name] for name in shape}
        groups = saved["examples"] // saved["batch_size"]
        self._start = state["groups"] % groups  # at the end of an epoch, the next one begins
        if self._start and saved != shape:
            raise DataError(
                f"the checkpoint is in the middle of an epoch of {saved['examples']} training examples in steps of "
                f"{saved['batch_size']}, and this run has {shape['examples']} in steps of {shape['batch_size']}; go on "
                "with the same data and data.batch_size, or export the checkpoint and start from it (model=FOLDER)"
            )

    def _epoch_shape(self) -> dict[str, int]:
        return {"examples": len(self.examples), "batch_size": self.group_size * self.sampler.num_replicas}
