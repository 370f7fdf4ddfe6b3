"""The teacher: a policy without gradient, whose weights follow the student's or stand still."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft.losses.head import Head
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import TokenSequence

__all__ = ["SharedTeacher", "Teacher"]


class Teacher(nn.Module):
    """A policy that scores what the student wrote and is never trained by gradient."""

    policy: Policy

    @property
    def head(self) -> Head:
        """What turns the teacher's hidden states into logits."""
        return self.policy.head

    @torch.no_grad()
    def hidden(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Hidden states `(N, D)` at the positions that predict completion tokens, without gradient or dropout."""
        with evaluating(self.policy):
            return self.policy.hidden(sequences)

    def shard_(self, mesh: DeviceMesh) -> None:
        """Cut weights that are the teacher's own, each process keeping a part."""

    def can_follow(self, student: Policy) -> bool:
        """Whether there are weights of the teacher's own that can move towards the student's."""
        return False

    def start_from(self, student: Policy) -> None:
        """Take over the student's weights."""

    def update_(self, student: Policy, rate: float) -> None:
        """Move a step of the given rate towards the student."""

    def drift(self, student: Policy) -> float:
        """Distance of what can follow to the student, relative to the student's norm; 0 where nothing can."""
        return 0.0


class SharedTeacher(Teacher):
    """A teacher whose weights are in the student's model: it is the student itself, or a view of its model.

    Args:
        policy: The student, or a view of it.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        # Not registered as a submodule: the student is, with the weights of both, and freezing the teacher must not
        # freeze the student.
        object.__setattr__(self, "policy", policy)
