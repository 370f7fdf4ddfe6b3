"""The interface of teachers: policies that are never trained by gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft.losses.head import Head
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.records import TokenSequence

__all__ = ["SharedTeacher", "Teacher"]


class Teacher(nn.Module):
    """A policy that scores the student's completions and is never trained by gradient.

    By default its weights never change; subclasses with weights of their own can follow the student's.
    """

    policy: Policy

    @property
    def head(self) -> Head:
        """The output head, which turns the teacher's hidden states into logits."""
        return self.policy.head

    @torch.no_grad()
    def hidden(self, sequences: Sequence[TokenSequence], prefix: Prefix | None = None) -> Tensor:
        """Hidden states `(N, D)` at the positions that predict completion tokens, without gradient or dropout.

        Args:
            sequences: Prompts with completions.
            prefix: What all of them begin with, if it has been read already.
        """
        with evaluating(self.policy):
            return self.policy.hidden(sequences, prefix=prefix)

    @torch.no_grad()
    def share_prefix(self, batches: Sequence[Sequence[TokenSequence]]) -> Prefix | None:
        """Read what the sequences of several micro-batches begin with; see :meth:`Policy.share_prefix`."""
        with evaluating(self.policy):
            return self.policy.share_prefix(batches)

    def shard_(self, mesh: DeviceMesh) -> None:
        """Shard the teacher's own weights, if it has any."""

    def can_follow(self, student: Policy) -> bool:
        """Whether the teacher has weights of its own that can follow the student's."""
        return False

    def start_from(self, student: Policy) -> None:
        """Copy the student's weights."""

    def return_to(self, base: Policy) -> None:
        """Take the weights of the model that training started from.

        Args:
            base: That model; for a teacher that is an adapter, the model without it.
        """
        self.start_from(base)

    def update_(self, student: Policy, rate: float) -> None:
        """Move the teacher's weights towards the student's, by an EMA step of this rate."""

    def drift(self, student: Policy) -> float:
        """Distance of the teacher's own weights from the student's, relative to the student's norm; 0 without any."""
        return 0.0


class SharedTeacher(Teacher):
    """A teacher that shares the student's model: the student itself, or a view of it with other adapters.

    Args:
        policy: The student, or a view of it.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        # Do not register it as a submodule: the student already is one, with the weights of both, and freezing the
        # teacher must not freeze the student.
        object.__setattr__(self, "policy", policy)
