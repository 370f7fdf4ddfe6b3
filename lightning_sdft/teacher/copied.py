"""A teacher with weights of its own: a full copy of the student in float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.teacher.base import Teacher

__all__ = ["CopiedTeacher", "ema_update_"]


@torch.no_grad()
def ema_update_(teacher: Sequence[Tensor], student: Sequence[Tensor], rate: float) -> None:
    """`teacher <- rate * student + (1 - rate) * teacher`, in place, in the teacher's precision and where it lies.

    One tensor after another, so that no more than one of the student's exists in another precision or place.

    Args:
        teacher: Weights of the teacher.
        student: Weights of the student, tensor by tensor of the same shapes.
        rate: Share of the student, in (0, 1].
    """
    for average, weight in zip(teacher, student, strict=True):
        average.lerp_(weight.detach().to(average.device).to(average.dtype), rate)


class CopiedTeacher(Teacher):
    """A full copy of a policy in float32, frozen, in eval mode.

    Float32 whatever the precision of the student: in bfloat16 an update at rate 0.01 rounds to nothing. So casts by
    ``.to(dtype)`` or by Lightning's precision move it between devices, but leave its dtype alone.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        copied: dict[int, Any] = {id(policy.tokenizer): policy.tokenizer}
        for parameter in policy.parameters():  # by themselves, so that no weight is copied in a form it does not keep
            copied[id(parameter)] = nn.Parameter(self.stored(parameter.detach()), requires_grad=False)
        self.policy = copy.deepcopy(policy, copied).float().eval()

    def stored(self, weight: Tensor) -> Tensor:
        """A copy of a weight, in the precision and at the place where the teacher keeps it."""
        return weight.to(torch.float32, copy=True)

    @torch.no_grad()
    def start_from(self, student: Policy) -> None:
        """Take over the student's weights and buffers."""
        ours, theirs = self.policy.state_dict(), student.state_dict()
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])

    def update_(self, student: Policy, rate: float) -> None:
        """See :func:`ema_update_`."""
        ema_update_(list(self.policy.parameters()), list(student.parameters()), rate)

    def weights(self) -> Iterator[Tensor]:
        """The weights in float32, one after another in the order of the policy's parameters."""
        yield from self.policy.parameters()

    @torch.no_grad()
    def drift(self, student: Policy) -> float:
        """Distance to the student relative to the student's norm."""
        distance = norm = 0.0
        for ours, weight in zip(self.weights(), student.parameters(), strict=True):
            theirs = weight.to(ours.device).to(ours.dtype)
            distance += (ours - theirs).square().sum().item()
            norm += theirs.square().sum().item()
        return math.sqrt(distance / norm)

    def train(self, mode: bool = True) -> CopiedTeacher:
        """Stay in eval mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> CopiedTeacher:
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), *args, **kwargs)  # type: ignore[no-untyped-call]
        return self
