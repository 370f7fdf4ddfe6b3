"""A teacher with weights of its own: a full copy of the student in float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft.distributed.processes import sums_over_processes
from lightning_sdft.distributed.sharding import local_part, shard_
from lightning_sdft.policy import Policy
from lightning_sdft.teacher.base import Teacher

__all__ = ["FullTeacher", "ema_update_", "relative_distance"]


@torch.no_grad()
def ema_update_(teacher: Sequence[Tensor], student: Sequence[Tensor], rate: float) -> None:
    """Update in place `teacher <- rate * student + (1 - rate) * teacher`, in the teacher's dtype and on its device.

    It works on one tensor at a time, so that at most one of the student's weights is copied to another dtype or device.

    Args:
        teacher: Weights of the teacher.
        student: Weights of the student, in the same order and with the same shapes.
        rate: Share of the student, in (0, 1].
    """
    for average, weight in zip(teacher, student, strict=True):
        average.lerp_(weight.detach().to(average.device).to(average.dtype), rate)


@torch.no_grad()
def relative_distance(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> float:
    """Distance between the weights of teacher and student, relative to the norm of the student's.

    Args:
        teacher: Weights of the teacher.
        student: Weights of the student, in the same order and with the same shapes. If both are sharded, each process
            passes its shards, and every process must call this.
    """
    distance = norm = 0.0
    for average, weight in zip(teacher, student, strict=True):
        ours = local_part(average)
        theirs = local_part(weight).to(ours.device).to(ours.dtype)
        distance += (ours - theirs).square().sum().item()
        norm += theirs.square().sum().item()
    distance, norm = sums_over_processes([distance, norm], weight.device)
    return math.sqrt(distance / norm)


class FullTeacher(Teacher):
    """A full copy of a policy in float32, frozen, in eval mode.

    It is in float32 whatever the precision of the student, because in bfloat16 an update at rate 0.01 would round to
    nothing. So ``.to(...)`` and Lightning's precision plugins can move it between devices, but do not change its dtype.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        copied: dict[int, Any] = {id(policy.tokenizer): policy.tokenizer}
        for parameter in policy.parameters():  # else deepcopy would first copy in the student's dtype
            copied[id(parameter)] = nn.Parameter(self.stored(parameter.detach()), requires_grad=False)
        self.policy = copy.deepcopy(policy, copied).float().eval()

    def shard_(self, mesh: DeviceMesh) -> None:
        """Shard the teacher's weights over processes."""
        shard_(self.policy, mesh)

    def can_follow(self, student: Policy) -> bool:
        """Whether the student's weights have the same shapes, which may not hold if the teacher is another model."""
        shapes = [[weight.shape for weight in policy.parameters()] for policy in (self.policy, student)]
        return shapes[0] == shapes[1]

    def stored(self, weight: Tensor) -> Tensor:
        """A copy of a weight, in the dtype and on the device in which the teacher stores it."""
        return weight.to(torch.float32, copy=True)

    @torch.no_grad()
    def start_from(self, student: Policy) -> None:
        """Copy the student's weights and buffers."""
        ours, theirs = self.policy.state_dict(), student.state_dict()
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])

    def update_(self, student: Policy, rate: float) -> None:
        """Move the teacher's weights towards the student's; see :func:`ema_update_`."""
        ema_update_(list(self.policy.parameters()), list(student.parameters()), rate)

    def weights(self) -> Iterator[Tensor]:
        """The weights in float32, one at a time, in the order of the policy's parameters."""
        yield from self.policy.parameters()

    def drift(self, student: Policy) -> float:
        """Distance between the weights of teacher and student; see :func:`relative_distance`."""
        return relative_distance(self.weights(), student.parameters())

    def train(self, mode: bool = True) -> FullTeacher:
        """Stay in eval mode, whatever the mode."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> FullTeacher:
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), *args, **kwargs)  # type: ignore[no-untyped-call]
        return self
