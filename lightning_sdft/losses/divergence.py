"""Divergences between teacher and student next-token distributions.

Letters: N tokens, V vocabulary; p_S student, p_T teacher.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897. The text
    describes reverse KL, but the results were produced with forward KL.
[2] Agarwal et al., On-Policy Distillation of Language Models, 2023, https://arxiv.org/abs/2306.13649
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import FLOOR, Distribution
from lightning_sdft.settings import Range, check_ranges

__all__ = ["Divergence", "ForwardKL", "JensenShannon", "ReverseKL"]

WITHIN = Range(0, 1, open_low=True, open_high=True, hint="use ForwardKL instead of 0, ReverseKL instead of 1")


class Divergence(ABC):
    """How far the student's next-token distribution is from the teacher's, per token, in nats."""

    @abstractmethod
    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Compute the value and, in closed form, its gradient.

        Args:
            student: Distributions of the student, `(N, V)`.
            teacher: Distributions of the teacher, `(N, V)`.

        Returns:
            The value of each token `(N,)` and its gradient with respect to the student's *logits* `(N, V)`.
        """

    def at(self, step: int) -> Divergence:
        """The divergence at an optimizer step, for those that follow a schedule; one that holds others passes it on."""
        return self


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """Forward KL `KL(p_T || p_S) = sum_v p_T (log p_T - log p_S)`, which produced the results of [1].

    It is mode-covering: the student has to give probability to everything that the teacher gives probability to.

    Example:
        >>> student = Distribution.of(torch.tensor([[0.0, 0.0]]))
        >>> teacher = Distribution.of(torch.tensor([[0.0, -100.0]]))
        >>> ForwardKL()(student, teacher)[0]
        tensor([0.6931])
    """

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value, and gradient `p_S - p_T`."""
        return teacher.mean(teacher.log_ratio(student)), student.probabilities - teacher.probabilities


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Reverse KL `KL(p_S || p_T) = sum_v p_S (log p_S - log p_T)`.

    It is mode-seeking: the student may settle on one of the teacher's modes.
    """

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value, and gradient `p_S (log(p_S / p_T) - KL)`."""
        return _kl_of_student(student, student.log_ratio(teacher))


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Generalised Jensen-Shannon divergence [2] `beta KL(p_T || m) + (1 - beta) KL(p_S || m)`.

    The mixture is `m = (1 - beta) p_S + beta p_T`. As beta approaches 0 or 1 the value tends to 0 and behaves like a
    rescaled KL: the forward one near 0, the reverse one near 1.

    Args:
        beta: Weight of the teacher in the mixture.

    Raises:
        SettingError: If ``beta`` is not within (0, 1).
    """

    beta: Annotated[float, WITHIN] = 0.5

    def __post_init__(self) -> None:
        check_ranges(JensenShannon, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value, and gradient `(1 - beta) p_S (log(p_S / m) - KL(p_S || m))`."""
        mixture = torch.lerp(student.probabilities, teacher.probabilities, self.beta).log_().clamp_(min=FLOOR)
        student_kl, gradient = _kl_of_student(student, student.log_probabilities - mixture)
        teacher_kl = teacher.mean(teacher.log_probabilities - mixture)
        return self.beta * teacher_kl + (1 - self.beta) * student_kl, gradient.mul_(1 - self.beta)


# Checkpoints store these classes in their hyperparameters and are loaded with weights_only=True.
torch.serialization.add_safe_globals([ForwardKL, ReverseKL, JensenShannon])


def _kl_of_student(student: Distribution, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """`KL(p_S || q)` `(N,)` from `log(p_S / q)` `(N, V)`; and its gradient `p_S (log(p_S / q) - KL)` for a fixed q."""
    value = student.mean(log_ratio)
    return value, log_ratio.sub_(value[:, None]).mul_(student.probabilities)
