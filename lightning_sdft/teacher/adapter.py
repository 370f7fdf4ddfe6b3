"""A teacher in the model of a student that has an adapter: one copy of the weights serves both."""

from __future__ import annotations

from torch import Tensor

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapter_weights, add_adapter
from lightning_sdft.teacher.base import SharedTeacher
from lightning_sdft.teacher.full import ema_update_, relative_distance

__all__ = ["AdapterTeacher"]


class AdapterTeacher(SharedTeacher):
    """The student's model with an adapter of the teacher's own, frozen, in float32 whatever the precision.

    It starts from the student's adapter, and so do its copies of modules that are trained whole. The average is of the
    factors, for an average of products B A has no such factors. It is that of the products where A stands still, as it
    nearly does at first, for B starts at 0 and so does the gradient of A; from then on they differ by
    `sum_i w_i (B_i - mean B) (A_i - mean A)`, with the weights `w_i` of the average: little while the adapter moves
    little within the average's memory of 1 / rate steps.

    Its weights stand beside the student's in the model, as ``lora_A.teacher`` beside ``lora_A.student``.

    Args:
        student: The student, whose model gets the second adapter.
        lora: What the student's adapter is like.
    """

    def __init__(self, student: Policy, lora: LoRA) -> None:
        add_adapter(student.model, lora, TEACHER)
        super().__init__(AdapterView(student, TEACHER))
        self.start_from(student)

    def can_follow(self, student: Policy) -> bool:
        """It can."""
        return True

    def start_from(self, student: Policy) -> None:
        """Take over the student's adapter."""
        ema_update_(*_adapters(student), rate=1.0)

    def update_(self, student: Policy, rate: float) -> None:
        """See :func:`ema_update_`."""
        ema_update_(*_adapters(student), rate)

    def drift(self, student: Policy) -> float:
        """Distance of the factors to the student's, relative to the norm of the student's."""
        return relative_distance(*_adapters(student))


def _adapters(policy: Policy) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of the teacher's adapter and of the student's."""
    teacher, student = (list(adapter_weights(policy.model, name).values()) for name in (TEACHER, STUDENT))
    return teacher, student  # type: ignore[return-value]
