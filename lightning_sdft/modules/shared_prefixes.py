"""The prefixes that the micro-batches of an optimizer step share; see :mod:`lightning_sdft.policy.prefix`."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.fsdp import FSDPModule

from lightning_sdft.data.groups import Group
from lightning_sdft.distributed.processes import process_count
from lightning_sdft.modules.timing import PhaseClock
from lightning_sdft.policy import Policy
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import Teacher

__all__ = ["PrefixGradients", "SharedPrefixes"]


class SharedPrefixes:
    """What the student and the teacher have read for a whole group of examples.

    Args:
        clock: Counts the time of reading as the student's and the teacher's.

    Attributes:
        student: The student's prefix, or ``None``.
        teacher: The teacher's prefix, or ``None``.
    """

    def __init__(self, clock: PhaseClock) -> None:
        self._clock = clock
        self.student: Prefix | None = None
        self.teacher: Prefix | None = None
        self._left = self._whole = 0

    def begin(self, group: Group, student: Policy | None, teacher: Teacher | None) -> None:
        """Read what all sequences of a filled group begin with, where that pays.

        Weights in shards are gathered by all processes together, so each of them reads all of its sequences. Where
        blocks are recomputed, transformers drops the cache. Processes that train together add up their gradients during
        the last backward pass, behind which none may come: there the last micro-batch is read whole.

        Args:
            group: The group.
            student: The policy in training, if it is to have a prefix.
            teacher: The teacher, if it is to have one.
        """
        self.student = self.teacher = None
        self._left, self._whole = group.micro_batches, int(process_count() > 1)
        if student is not None and not _sharded(student) and not _recomputes(student):
            batches = _cut([item.student for item in group.items], self._left)
            with self._clock.quietly("student"):
                self.student = _shared(student, batches[: self._left - self._whole])
        shown = [item.teacher for item in group.items if item.teacher is not None]
        if teacher is not None and shown and not _sharded(teacher.policy):
            with self._clock.quietly("teacher"):
                self.teacher = _shared(teacher, _cut(shown, self._left))

    def after_backward(self) -> None:
        """Take the gradient back through the student's prefix, behind the last micro-batch that has it."""
        self._left -= 1
        if self.student is not None and self._left == self._whole:
            self.student.backward()
            self.student = None
        if self._left == 0:
            self.teacher = None


class PrefixGradients(Callback):
    """Takes gradients back through the prefix behind the backward passes: a hook of a module may be overridden."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the module's prefixes."""
        pl_module.prefixes.after_backward()  # type: ignore[operator, union-attr]

    @classmethod
    def taken(cls, trainer: Trainer) -> bool:
        """Whether a trainer has this callback."""
        return any(isinstance(callback, cls) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _shared(reader: Policy | Teacher, batches: Sequence[Sequence[TokenSequence]]) -> Prefix | None:
    return reader.share_prefix(batches) if len(batches) > 1 else None


def _cut(sequences: Sequence[TokenSequence], parts: int) -> list[Sequence[TokenSequence]]:
    size = len(sequences) // parts
    return [sequences[first : first + size] for first in range(0, len(sequences), size)]


def _sharded(policy: Policy) -> bool:
    return any(isinstance(module, FSDPModule) for module in policy.modules())


def _recomputes(policy: Policy) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in policy.modules())
