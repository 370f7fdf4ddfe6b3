"""What callbacks know of the module that trains; the modules themselves stand above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from lightning.pytorch import LightningModule

from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.grading.base import Grader
from lightning_sdft.modules.timing import PhaseClock
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import Example
from lightning_sdft.teacher import Teacher

__all__ = ["GradedSetsLike", "TrainedModule", "trained"]


class GradedSetsLike(Protocol):
    """Evaluation sets with their graders."""

    sets: Sequence[EvaluationSet]

    def of(self, index: int) -> Mapping[str, Grader]:
        """The graders of a set by metric name."""


class TrainedModule(Protocol):
    """A module of this package."""

    model: str
    pretrained: bool
    lora: LoRA | None
    attention: str | None
    trust_remote_code: bool
    max_completion_tokens: int
    policy: Policy
    teacher: Teacher
    tokenizer: Tokenizer
    graded: GradedSetsLike
    clock: PhaseClock
    group: Sequence[Example]


def trained(module: LightningModule) -> TrainedModule:
    """The module as the callbacks of this package know it; Lightning's hooks hand out any module."""
    return cast(TrainedModule, module)
