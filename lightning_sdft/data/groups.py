"""Generation groups: the examples of one optimizer step, delivered in micro-batches that know their group.

On-policy training samples once for all prompts of an optimizer step (one large decoding batch) and trains on them in
micro-batches (small activations). So the loader draws a whole group and hands it out piece by piece. The first
micro-batch that is trained on fills the group with what is read of its examples, and each micro-batch takes its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_sdft.errors import DataError
from lightning_sdft.records import Example, Rollout, TokenSequence

__all__ = ["Group", "GroupLoader", "Item", "MicroBatch"]


@dataclass(frozen=True)
class Item:
    """An example of an optimizer step with what is read of it.

    Args:
        example: The example.
        student: What the student reads, and is trained on.
        teacher: What the teacher reads, where there is one.
        rollout: The completion as it was sampled, where one was.
    """

    example: Example
    student: TokenSequence
    teacher: TokenSequence | None = None
    rollout: Rollout | None = None

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that is read of it."""
        return max(len(self.student), 0 if self.teacher is None else len(self.teacher))


class Group:
    """The examples of one optimizer step on this process, and what is read of them once it is filled.

    Args:
        examples: The examples, in the order of the loader.
        micro_batches: How many micro-batches share it.

    Attributes:
        items: The examples with what is read of them; empty until :meth:`fill`.
        tokens: Completion tokens that count in the optimizer step, per process on average.
    """

    def __init__(self, examples: Sequence[Example], micro_batches: int = 1) -> None:
        self.examples = tuple(examples)
        self.micro_batches = micro_batches
        self.items: tuple[Item, ...] = ()
        self.tokens = 0.0

    def fill(self, items: Sequence[Item], tokens: float, by_length: bool = True) -> None:
        """Keep what is read of the examples.

        Args:
            items: An item of each example.
            tokens: See the attribute.
            by_length: Whether the longest come first, so that a micro-batch has sequences of like length and little
                padding. Items of the same length keep their order, and so do those of a single micro-batch.
        """
        sorts = by_length and self.micro_batches > 1
        self.items = tuple(sorted(items, key=lambda item: -item.length) if sorts else items)
        self.tokens = tokens

    @property
    def completion_lengths(self) -> list[int]:
        """Completion tokens of each item."""
        return [len(item.student.completion) for item in self.items]

    @property
    def rollouts(self) -> list[Rollout]:
        """The completions that were sampled."""
        return [item.rollout for item in self.items if item.rollout is not None]


class MicroBatch:
    """A share of a group, which is read at once.

    Neither a sequence nor a dataclass: Lightning takes those apart, to cast the tensors in them.

    Args:
        group: The group, which all of its micro-batches have in common.
        index: Which of the group's micro-batches this is, from 0.
    """

    def __init__(self, group: Group, index: int = 0) -> None:
        self.group = group
        self.index = index

    @classmethod
    def of(cls, batch: MicroBatch | Sequence[Example]) -> MicroBatch:
        """The batch itself, or examples as a group of their own; the collate function of a loader of one's own."""
        return batch if isinstance(batch, MicroBatch) else cls(Group(batch))

    @classmethod
    def cut(cls, examples: Sequence[Example], size: int) -> list[MicroBatch]:
        """The micro-batches of a group, of a size that divides it."""
        group = Group(examples, len(examples) // size)
        return [cls(group, index) for index in range(group.micro_batches)]

    def to(self, device: object, **kwargs: object) -> MicroBatch:
        """Stay: examples hold text, no tensors. Lightning asks every batch to move."""
        return self

    def __len__(self) -> int:
        return len(self.group.examples) // self.group.micro_batches

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after it."""
        return self.index == self.group.micro_batches - 1

    @property
    def examples(self) -> Sequence[Example]:
        """Its share of the examples, in the order of the loader."""
        return self.group.examples[self._share]

    @property
    def items(self) -> Sequence[Item]:
        """Its share of what is trained on, once the group is filled."""
        return self.group.items[self._share]

    @property
    def student_sequences(self) -> list[TokenSequence]:
        """What the student reads of it."""
        return [item.student for item in self.items]

    @property
    def teacher_sequences(self) -> list[TokenSequence]:
        """What the teacher reads of it."""
        return [item.teacher for item in self.items if item.teacher is not None]

    @property
    def rollouts(self) -> list[Rollout]:
        """Its completions as they were sampled."""
        return [item.rollout for item in self.items if item.rollout is not None]

    @property
    def completion_lengths(self) -> list[int]:
        """Completion tokens of each of its items."""
        return [len(item.student.completion) for item in self.items]

    def targets(self) -> torch.Tensor:
        """The completion tokens of its items one after another, `(N,)`."""
        return torch.tensor([token for item in self.items for token in item.student.completion])

    @property
    def _share(self) -> slice:
        return slice(self.index * len(self), (self.index + 1) * len(self))


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
            collate_fn=list,
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
