"""Divergences between teacher and student next-token distributions, and distillation by them.

Letters: N tokens, D width, V vocabulary; p_S student, p_T teacher.

[1] Shenfeld et al., Self-Distillation Enables Continual Learning, 2026, https://arxiv.org/abs/2601.19897. Its text says
    reverse KL, its results were produced with forward KL.
[2] Agarwal et al., On-Policy Distillation of Language Models, 2023, https://arxiv.org/abs/2306.13649
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sdft.losses.head import Head, HeadLoss, TokenLoss, head_loss

__all__ = ["Divergence", "ForwardKL", "JensenShannon", "ReverseKL", "distillation_loss"]


class Divergence(ABC):
    """How far the student's next-token distribution is from the teacher's, per token, in nats."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient in closed form.

        Args:
            student: Log-probabilities of the student, `(N, V)`.
            teacher: Log-probabilities of the teacher, `(N, V)`.

        Returns:
            The value of each token `(N,)` and its gradient with respect to the student's *logits* `(N, V)`.
        """


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """`KL(p_T || p_S) = sum_v p_T (log p_T - log p_S)`, what produced the results of [1]; covers what the teacher does.

    Example:
        >>> student = torch.tensor([[0.5, 0.5]]).log()
        >>> teacher = torch.tensor([[1.0, 0.0]]).log()
        >>> ForwardKL()(student, teacher)[0]
        tensor([0.6931])
    """

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and gradient `p_S - p_T`."""
        p_student, p_teacher = student.exp(), teacher.exp()
        return _weighted_difference(p_teacher, teacher, student), p_student.sub_(p_teacher)


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """`KL(p_S || p_T) = sum_v p_S (log p_S - log p_T)`; seeks a mode of the teacher's."""

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and gradient `p_S (log(p_S / p_T) - KL)`."""
        return _expected_log_ratio(student, teacher)


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Generalised Jensen-Shannon divergence [2] `beta KL(p_T || m) + (1 - beta) KL(p_S || m)`.

    The mixture is `m = (1 - beta) p_S + beta p_T`. Towards either end of beta the value tends to 0: it is a rescaled
    KL there, forward for beta to 0 and reverse for beta to 1.

    Args:
        beta: Share of the teacher in the mixture, in (0, 1).

    Raises:
        ValueError: If ``beta`` is not within (0, 1).
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ValueError(f"divergence.beta={self.beta} is not within (0, 1); for the ends use ForwardKL, ReverseKL")

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Value, and gradient `(1 - beta) p_S (log(p_S / m) - KL(p_S || m))`."""
        mixture = torch.logaddexp(student + math.log1p(-self.beta), teacher + math.log(self.beta))
        student_value, gradient = _expected_log_ratio(student, mixture)
        teacher_value = _weighted_difference(teacher.exp(), teacher, mixture)
        return self.beta * teacher_value + (1 - self.beta) * student_value, gradient.mul_(1 - self.beta)


# A checkpoint may name them in its hyper-parameters, and is loaded without pickle's freedom.
torch.serialization.add_safe_globals([ForwardKL, ReverseKL, JensenShannon])


def _weighted_difference(weights: Tensor, minuend: Tensor, subtrahend: Tensor) -> Tensor:
    """`sum_v weights * (minuend - subtrahend)` `(N,)`, where a weight of 0 gives 0 whatever the difference.

    Summing the weighted difference keeps four more digits in float32 than the difference of two weighted sums.
    """
    return (weights * (minuend - subtrahend)).masked_fill_(weights == 0, 0.0).sum(-1)


def _expected_log_ratio(student: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """`KL(p_S || other)` `(N,)`, and the gradient of `E_S[sg(log(p_S / other))]` in the student's logits `(N, V)`."""
    p_student = student.exp()
    value = _weighted_difference(p_student, student, other)
    ratio = (student - other).masked_fill_(p_student == 0, 0.0)
    return value, p_student * (ratio - value[:, None])


def distillation_loss(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    weights: Tensor,
    divergence: Divergence,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> HeadLoss:
    """Divergence of the student from the teacher over the full vocabulary, summed over tokens with weights.

    Args:
        student_hidden: Hidden states of the student, `(N, D)`.
        student_head: Head of the student.
        teacher_hidden: Hidden states of the teacher at the same tokens, `(N, D)`; no gradient flows into them.
        teacher_head: Head of the teacher.
        weights: Weight of each token in the loss, `(N,)`.
        divergence: What to minimise.
        temperature: Both logits are divided by it, as they were in sampling.
        chunk_tokens: See :func:`head_loss`.

    Returns:
        The loss, with the diagnostics ``kl`` (`KL(p_T || p_S)`, whatever is minimised), ``teacher_entropy``,
        ``student_entropy`` in nats, and ``agreement`` (1 where both have the same most probable token).
    """

    def token_loss(logits: Tensor, tokens: Tensor) -> TokenLoss:
        student = torch.log_softmax(logits / temperature, -1)
        teacher = torch.log_softmax(teacher_head(teacher_hidden[tokens]).to(student.dtype) / temperature, -1)
        values, gradient = divergence(student, teacher)
        p_teacher = teacher.exp()
        diagnostics = {
            "kl": values if isinstance(divergence, ForwardKL) else _weighted_difference(p_teacher, teacher, student),
            "teacher_entropy": _weighted_difference(p_teacher, torch.zeros_like(teacher), teacher),
            "student_entropy": _weighted_difference(student.exp(), torch.zeros_like(student), student),
            "agreement": (student.argmax(-1) == teacher.argmax(-1)).to(values.dtype),
        }
        return TokenLoss(values, gradient.div_(temperature), diagnostics)

    return head_loss(student_hidden, student_head, weights, token_loss, chunk_tokens)
