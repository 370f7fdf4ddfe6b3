"""A teacher that is a second adapter in the student's model, so that both share one copy of the base weights."""

from __future__ import annotations

from torch import Tensor

from lightning_sdft.policy import Policy
from lightning_sdft.policy.adapter_view import AdapterView
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapter_weights, add_adapter, clear_adapter_
from lightning_sdft.teacher.base import SharedTeacher
from lightning_sdft.teacher.full import ema_update_, relative_distance

__all__ = ["AdapterTeacher"]


class AdapterTeacher(SharedTeacher):
    """The student's model with a second, frozen adapter for the teacher, in float32 whatever the model's precision.

    It starts as a copy of the student's adapter, including modules that are trained in full. We average A and B
    separately, because an average of products BA is generally not of rank r. The two averages are equal while A does
    not change. That nearly holds at first, because B starts at 0 and with it the gradient of A. Later they differ by
    `sum_i w_i (B_i - mean B) (A_i - mean A)`, where `w_i` are the weights of the average. That is small as long as the
    adapter moves little within the last 1 / rate steps, over which the EMA averages.

    The teacher's weights are stored beside the student's in the model: ``lora_A.teacher`` beside ``lora_A.student``.

    Args:
        student: The student, whose model gets the second adapter.
        lora: Settings of the student's adapter.
    """

    def __init__(self, student: Policy, lora: LoRA) -> None:
        add_adapter(student.model, lora, TEACHER)
        super().__init__(AdapterView(student, TEACHER))
        self.start_from(student)

    def can_follow(self, student: Policy) -> bool:
        """True: the adapter always can."""
        return True

    def start_from(self, student: Policy) -> None:
        """Copy the student's adapter."""
        ema_update_(*_adapters(student), rate=1.0)

    def return_to(self, base: Policy) -> None:
        """Take away what the adapter changes."""
        clear_adapter_(self.policy.model, TEACHER)

    def update_(self, student: Policy, rate: float) -> None:
        """Move the teacher's adapter towards the student's; see :func:`ema_update_`."""
        ema_update_(*_adapters(student), rate)

    def drift(self, student: Policy) -> float:
        """Distance between the adapters' factors, relative to the norm of the student's."""
        return relative_distance(*_adapters(student))


def _adapters(policy: Policy) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of the teacher's adapter, and those of the student's."""
    teacher, student = (list(adapter_weights(policy.model, name).values()) for name in (TEACHER, STUDENT))
    return teacher, student  # type: ignore[return-value]
