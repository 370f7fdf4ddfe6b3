"""A teacher that mixes the logits of a frozen reference with those of the student.

Letters: N tokens, D width, V vocabulary; c the student's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_sdft.errors import PolicyError
from lightning_sdft.losses.distribution import FLOOR
from lightning_sdft.losses.head import Head
from lightning_sdft.policy import Policy
from lightning_sdft.policy.prefix import Prefix
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher.base import SharedTeacher, Teacher

__all__ = ["MixedTeacher"]


class MixedTeacher(Teacher):
    """A teacher with the logits `(1 - c) z_reference + c z_student`: both models read the same sequences.

    It is one projection: of the hidden states `[(1 - c) h_reference, c h_student]` with the weight `[W_reference,
    W_student]`. The weight is put together at each access to :attr:`head` and freed with it, so that it takes memory
    only while the loss is computed. If both have the very same head, as with an adapter that leaves the head alone, the
    hidden states are mixed instead, and nothing is put together.

    It cannot generate, and :attr:`policy` is the reference.

    Args:
        reference: The reference, a teacher with the student's architecture. It is not made to follow the student.
        student: The student.
        student_share: c, within [0, 1).

    Raises:
        PolicyError: If the model has a soft cap, behind which logits are no projection of hidden states.
    """

    def __init__(self, reference: Teacher, student: Policy, student_share: float) -> None:
        super().__init__()
        if student.soft_cap is not None:
            raise PolicyError(
                f"TrustRegionTeacher mixes logits in the output head, and those of {type(student.model).__name__} pass "
                f"through a soft cap of {student.soft_cap:g} behind it; use CopiedTeacher, or BaseTeacher with lora"
            )
        self.reference = reference
        self.student = SharedTeacher(student)
        self.student_share = student_share
        # Not as a submodule, which it is below the reference already.
        object.__setattr__(self, "policy", reference.policy)

    @property
    def head(self) -> Head:
        """The output head, which turns the mixed hidden states into logits."""
        heads = self.reference.head, self.student.head
        if _is_one(*heads):
            return heads[0]
        with torch.no_grad():
            reference, student = (head.gathered() for head in heads)
            both = Head(torch.cat([reference.weight, student.weight], 1), scale=reference.scale)
            if reference.bias is None or student.bias is None:
                return both
            # A bias of minus infinity excludes a token, and there is nothing between two of them.
            ours, theirs = (each.to(both.precision).clamp(min=FLOOR) for each in (reference.bias, student.bias))
            return replace(both, bias=torch.lerp(ours, theirs, self.student_share))

    def hidden(self, sequences: Sequence[TokenSequence], prefix: Prefix | None = None) -> Tensor:
        """Mixed hidden states, without gradient or dropout: `(N, 2 D)`, or `(N, D)` if both have the same head."""
        reference, student = self.reference.hidden(sequences), self.student.hidden(sequences)
        if _is_one(self.reference.head, self.student.head):
            return torch.lerp(reference, student, self.student_share)
        return torch.cat([reference * (1 - self.student_share), student * self.student_share], 1)

    def share_prefix(self, batches: Sequence[Sequence[TokenSequence]]) -> Prefix | None:
        """Share nothing: each of the two models would need a prefix of its own."""
        return None

    def shard_(self, mesh: DeviceMesh) -> None:
        """Shard the reference."""
        self.reference.shard_(mesh)

    def start_from(self, student: Policy) -> None:
        """Make the reference a copy of the student, unless it is the model without adapter."""
        self.reference.start_from(student)


def _is_one(reference: Head, student: Head) -> bool:
    """Whether both are the same weights, so that no copy is needed."""
    return all(getattr(reference, name) is getattr(student, name) for name in ("weight", "bias", "low_rank"))
