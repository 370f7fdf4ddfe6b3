"""Generation groups: the examples of one optimizer step, delivered in micro-batches that refer to their group.

On-policy training samples completions for all prompts of an optimizer step at once (one large decoding batch) and then
trains on them in micro-batches (small activations). So the loader loads a whole group and yields it one micro-batch at
a time. The training step of the first micro-batch fills the group with the token sequences of all its examples; every
micro-batch then uses its share of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_sdft.errors import DataError
from lightning_sdft.records import Example, Rollout, TokenSequence

__all__ = ["Group", "GroupLoader", "Item", "MicroBatch", "repeated"]

Member = TypeVar("Member")


@dataclass(frozen=True)
class Item:
    """An example with the token sequences that the models read for one completion of it.

    Args:
        example: The example.
        student: The student's sequence: prompt and the completion it is trained on.
        teacher: The teacher's sequence, if there is a teacher.
        rollout: The sampled completion, if the method samples.
    """

    example: Example
    student: TokenSequence
    teacher: TokenSequence | None = None
    rollout: Rollout | None = None

    @property
    def length(self) -> int:
        """Number of tokens of the longer of the two sequences."""
        return max(len(self.student), 0 if self.teacher is None else len(self.teacher))


class Group:
    """The examples of one optimizer step on this process and, once filled, their token sequences.

    Args:
        examples: The examples, in the loader's order.
        micro_batches: Number of micro-batches that the group is divided into.

    Attributes:
        items: The examples with their token sequences, for each completion one; empty until :meth:`fill`.
        tokens: Number of completion tokens that count in the optimizer step's loss, averaged over processes.
        retained: Answers to the prompts of :class:`Retention`, once they are written.
    """

    def __init__(self, examples: Sequence[Example], micro_batches: int = 1) -> None:
        self.examples = tuple(examples)
        self.micro_batches = micro_batches
        self.items: tuple[Item, ...] = ()
        self.tokens = 0.0
        self.retained: tuple[TokenSequence, ...] = ()

    def fill(self, items: Sequence[Item], tokens: float, by_length: bool = True) -> None:
        """Store the examples' token sequences.

        Lengths are known only after sampling, so the items are sorted here and not by the loader. Items of one example
        stay together.

        Args:
            items: One item per example, or equally many, one example after the other.
            tokens: See the attribute.
            by_length: Whether to sort the items, longest first, so that each micro-batch has sequences of similar
                length and little padding. Items of equal length keep their order. A group of a single micro-batch is
                not sorted.
        """
        each = len(items) // len(self.examples)
        units = [items[first : first + each] for first in range(0, len(items), each)]
        if by_length and self.micro_batches > 1:
            units.sort(key=lambda unit: -max(item.length for item in unit))
        self.items = tuple(item for unit in units for item in unit)
        self.tokens = tokens

    @property
    def completion_lengths(self) -> list[int]:
        """Number of completion tokens of each item."""
        return [len(item.student.completion) for item in self.items]

    @property
    def rollouts(self) -> list[Rollout]:
        """The sampled completions."""
        return [item.rollout for item in self.items if item.rollout is not None]


class MicroBatch:
    """The share of a group that goes through one forward and backward pass.

    This class is neither a sequence nor a dataclass, because Lightning takes those apart to cast the tensors in them.

    Args:
        group: The group; all of its micro-batches refer to the same object.
        index: Which of the group's micro-batches this is, counted from 0.
    """

    def __init__(self, group: Group, index: int = 0) -> None:
        self.group = group
        self.index = index

    @classmethod
    def of(cls, batch: MicroBatch | Sequence[Example]) -> MicroBatch:
        """Turn a list of examples into a group of one micro-batch; the collate function for your own loaders.

        A batch that is already a micro-batch is returned as it is.
        """
        return batch if isinstance(batch, MicroBatch) else cls(Group(batch))

    @classmethod
    def cut(cls, examples: Sequence[Example], size: int) -> list[MicroBatch]:
        """Make a group of the examples and return its micro-batches; ``size`` must divide their number."""
        group = Group(examples, len(examples) // size)
        return [cls(group, index) for index in range(group.micro_batches)]

    def to(self, device: object, **kwargs: object) -> MicroBatch:
        """Do nothing: Lightning moves every batch to the device, but examples hold text and no tensors."""
        return self

    def __len__(self) -> int:
        return len(self.group.examples) // self.group.micro_batches

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after this micro-batch."""
        return self.index == self.group.micro_batches - 1

    @property
    def examples(self) -> Sequence[Example]:
        """Its share of the examples, in the loader's order."""
        return self._share(self.group.examples)

    @property
    def items(self) -> Sequence[Item]:
        """Its share of the group's items, once the group is filled."""
        return self._share(self.group.items)

    @property
    def student_sequences(self) -> list[TokenSequence]:
        """The student's sequence for each of its items."""
        return [item.student for item in self.items]

    @property
    def teacher_sequences(self) -> list[TokenSequence]:
        """The teacher's sequence for each of its items that has one."""
        return [item.teacher for item in self.items if item.teacher is not None]

    @property
    def rollouts(self) -> list[Rollout]:
        """The sampled completions of its items."""
        return [item.rollout for item in self.items if item.rollout is not None]

    @property
    def completion_lengths(self) -> list[int]:
        """Number of completion tokens of each of its items."""
        return [len(item.student.completion) for item in self.items]

    def targets(self) -> torch.Tensor:
        """The completion tokens of its items, concatenated: `(N,)`."""
        return torch.tensor([token for item in self.items for token in item.student.completion])

    def _share(self, whole: tuple[Member, ...]) -> tuple[Member, ...]:
        size = len(whole) // self.group.micro_batches
        return whole[self.index * size : (self.index + 1) * size]


def repeated(members: Iterable[Member], times: int) -> list[Member]:
    """Each member so many times, one member after the other: the order of the completions of a group."""
    return [member for member in members for _ in range(times)]


class GroupLoader:
    """Yields the micro-batches of one generation group after another; its position can be saved and restored.

    Examples that do not fill a last group are dropped for the epoch (different ones each epoch, because the order is
    shuffled). The n-th groups of all processes together contain the same examples as the n-th group of a
    single-process run, so a saved position does not depend on the number of processes.

    Args:
        examples: The training examples.
        group_size: Examples per optimizer step on this process.
        micro_batch_size: Examples per forward and backward pass; must divide ``group_size``.
        sampler: Gives the order of the examples on this process.
        workers: Number of ``DataLoader`` workers.
        limit: Number of groups after which an epoch ends early.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        group_size: int,
        micro_batch_size: int,
        sampler: DistributedSampler[Example],
        workers: int = 0,
        limit: int | None = None,
    ) -> None:
        self.examples = examples
        self.group_size = group_size
        self.micro_batch_size = micro_batch_size
        self.sampler = sampler  # Lightning sets its epoch
        self.workers = workers
        self.limit = limit
        self._start = 0  # the group at which the next epoch starts
        self._finished = 0  # number of groups in this epoch whose last micro-batch has been yielded

    @property
    def group_count(self) -> int:
        """Groups per epoch."""
        whole = len(self.sampler) // self.group_size
        return whole if self.limit is None else min(whole, self.limit)

    def __len__(self) -> int:
        """Micro-batches per epoch."""
        return self.group_count * (self.group_size // self.micro_batch_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        self._finished, self._start = self._start, 0
        return self._micro_batches()

    def _micro_batches(self) -> Iterator[MicroBatch]:
        order = list(self.sampler)  # not earlier: Lightning asks for the iterator before it sets the epoch
        firsts = range(self._finished * self.group_size, self.group_count * self.group_size, self.group_size)
        groups: DataLoader[Example] = DataLoader(
            self.examples,  # type: ignore[arg-type]  # a map-style loader works with any sequence
            batch_sampler=[order[first : first + self.group_size] for first in firsts],
            num_workers=self.workers,
            collate_fn=list,
            # Without its own generator, the loader would draw a seed for its workers from the global generator each
            # epoch, and once more after a resume, so that a resumed run would sample different rollouts.
            generator=torch.Generator(),
        )
        for group in groups:
            *others, last = MicroBatch.cut(group, self.micro_batch_size)
            yield from others
            self._finished += 1
            yield last

    def state_dict(self) -> dict[str, Any]:
        """The number of finished groups (exact only between groups), and what the order of the examples depends on."""
        return {"groups": self._finished, **self._epoch_shape()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last group that the saved loader had finished.

        Raises:
            DataError: If the position is in the middle of an epoch, and the number or order of the examples or the
                batch size differs from the saved one: the position would mean something else here.
        """
        shape = self._epoch_shape()
        saved = {name: state.get(name, value) for name, value in shape.items()}
        groups = min(saved["examples"] // saved["batch_size"], saved["steps"])
        self._start = state["groups"] % groups  # 0 at the end of an epoch: the next one starts
        if self._start and saved != shape:
            before, now = (
                f"{each['examples']} training examples in {each['steps']} steps of {each['batch_size']} "
                f"(shuffle_seed={each['shuffle_seed']})"
                for each in (saved, shape)
            )
            raise DataError(
                f"the checkpoint is in the middle of an epoch of {before}, and this run has {now}; resume with the "
                "same data, data.batch_size, data.shuffle_seed and trainer.limit_train_batches, or export the "
                "checkpoint and start from it (model=FOLDER)"
            )

    def _epoch_shape(self) -> dict[str, int]:
        return {
            "examples": len(self.examples),
            "batch_size": self.group_size * self.sampler.num_replicas,
            "steps": self.group_count,
            "shuffle_seed": self.sampler.seed,
        }
