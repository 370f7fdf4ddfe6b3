"""Targets: what the student is pulled towards, where that is not the teacher itself. :class:`Toward` takes them.

Letters: N tokens, V vocabulary; p_S student, p_T teacher, q target, a the student's share in it.

All targets here are on or near the geometric path `p_T^(1-a) p_S^a` between the two. Where student and teacher agree,
so do they. The student is a constant in them: no gradient flows through a target.

[1] Hübotter et al., Reinforcement Learning via Self-Distillation, 2026, https://arxiv.org/abs/2601.20802
[2] Li et al., DemoPSD: Disagreement-Modulated Policy Self-Distillation, 2026, https://arxiv.org/abs/2607.02502
[3] Jang et al., Stable On-Policy Distillation through Adaptive Target Reformulation, 2026,
    https://arxiv.org/abs/2601.07155
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.divergence import JensenShannon
from lightning_sdft.settings import Count, Fraction, NonNegative, Positive, check_ranges

__all__ = ["AgreementProduct", "DisagreementMixture", "GeometricMixture", "Target", "mixture", "ramp"]


class Target(ABC):
    """The distribution that the student is pulled towards, made of student and teacher at every token."""

    @abstractmethod
    def __call__(self, student: Distribution, teacher: Distribution) -> Distribution:
        """The target of each token, `(N, V)`. It may be the teacher's own distribution, and changes neither."""

    def at(self, step: int) -> Target:
        """The target at an optimizer step, for those that follow a schedule."""
        return self


def mixture(student: Distribution, teacher: Distribution, student_share: float | Tensor) -> Distribution:
    """The geometric mixture `p_T^(1-a) p_S^a`, normalised, for one share a or one per token, `(N, 1)`."""
    return Distribution.of(torch.lerp(teacher.logits, student.logits, student_share))


def ramp(start: float, end: float, steps: int, step: int) -> float:
    """From ``start`` at step 0 in a straight line to ``end``, which is reached exactly after ``steps`` steps."""
    return end if step >= steps else start + (end - start) * step / steps


@dataclass(frozen=True)
class GeometricMixture(Target):
    """The geometric mixture `q ~ p_T^(1-a) p_S^a`: logits in between those of teacher and student.

    It is not the trust-region teacher of [1], :class:`TrustRegionTeacher`, although the formula is the same: that one
    mixes a frozen model with the student *as it is when shown what the teacher is shown*, and this one with the student
    as it is trained, without the demonstration.

    With ``ReverseKL`` its gradient is `1 - a` times that towards the teacher.

    Args:
        student_share: a.

    Raises:
        SettingError: If ``student_share`` is not within [0, 1).
    """

    student_share: Fraction = 0.1

    def __post_init__(self) -> None:
        check_ranges(GeometricMixture, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> Distribution:
        """The mixture."""
        return mixture(student, teacher, self.student_share)


@dataclass(frozen=True)
class DisagreementMixture(Target):
    """The target of DemoPSD [2]: the more the two disagree, the more of the student is in the mixture.

    `a = 2 limit (sigmoid(sensitivity JSD) - 1/2)`, where JSD is their Jensen-Shannon divergence in nats, and
    `q ~ p_T^(1-a) p_S^a`. In [2] the divergence is ``ReverseKL``, and p_S is a moving average of the student; here it
    is the student itself.

    Args:
        limit: The share of the student that extreme disagreement approaches.
        sensitivity: How soon. The JSD is at most log 2, and below 0.05 on average in [2], which tried 15 to 100.

    Raises:
        SettingError: If ``limit`` is not within [0, 1), or ``sensitivity`` not positive.
    """

    limit: Fraction = 0.15
    sensitivity: Positive = 50.0

    def __post_init__(self) -> None:
        check_ranges(DisagreementMixture, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> Distribution:
        """The mixture."""
        # Below zero by rounding, a mixture would go beyond the teacher, where tokens that the student excludes explode.
        disagreement = JensenShannon()(student, teacher)[0].clamp(min=0)
        share = 2 * self.limit * (torch.sigmoid(self.sensitivity * disagreement) - 0.5)
        return mixture(student, teacher, share[:, None])


@dataclass(frozen=True)
class AgreementProduct(Target):
    """The target of Veto [3]: `q ~ p_T p_S^b`, large only where teacher and student both are.

    The student is its own target at `p_S ~ p_T^(1/(1-b))`, which is sharper than the teacher, so b falls in a straight
    line to ``end`` during training; it is constant if both are the same.

    Args:
        steps: Optimizer steps until ``end`` is reached; in [3] those of the whole run.
        start: b at the first step. In [3] 0.3 (summaries), 0.8 (mathematics) or 1 (code).
        end: b at the end. With 0 the target is the teacher.

    Raises:
        SettingError: If ``steps`` is not positive, or a power is negative.
    """

    steps: Count
    start: NonNegative = 0.8
    end: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_ranges(AgreementProduct, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> Distribution:
        """The product as at the first step."""
        if self.start == 0:
            return teacher
        return Distribution.of(torch.add(teacher.logits, student.logits, alpha=self.start))

    def at(self, step: int) -> AgreementProduct:
        """The product with the power at that step."""
        power = ramp(self.start, self.end, self.steps, step)
        return replace(self, start=power, end=power)


# See ForwardKL.
torch.serialization.add_safe_globals([GeometricMixture, DisagreementMixture, AgreementProduct])
