"""The distillation loss: how far the student's next-token distributions are from the teacher's.

Letters: N tokens, D width, V vocabulary; p_S student, p_T teacher.
"""

from __future__ import annotations

from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL
from lightning_sdft.losses.fused import HeadLoss, Projection, TokenLoss, head_loss
from lightning_sdft.losses.head import Head

__all__ = ["distillation_loss"]


def distillation_loss(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    weights: Tensor,
    divergence: Divergence,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    chunk_tokens: int | None = None,
) -> HeadLoss:
    """Weighted sum over tokens of the divergence between student and teacher, over the full vocabulary.

    Args:
        student_hidden: Hidden states of the student, `(N, D)`.
        student_head: Output head of the student.
        teacher_hidden: Hidden states of the teacher at the same tokens, `(N, D)`; no gradient flows into them.
        teacher_head: Output head of the teacher.
        weights: Weight of each token in the loss, `(N,)`.
        divergence: The divergence to minimise.
        temperature: The student's logits are divided by it, as they were when the completions were sampled.
        teacher_temperature: The teacher's logits are divided by it; by default by ``temperature``. A lower one sharpens
            what the student is pulled towards.
        chunk_tokens: See :func:`head_loss`.

    Returns:
        The loss, with these diagnostics per token: ``kl`` (always `KL(p_T || p_S)`, whichever divergence is minimised
        and whatever its target), ``teacher_entropy`` and ``student_entropy``, all in nats, and ``agreement`` (1 where
        student and teacher have the same most probable token, else 0).
    """
    temperatures = (temperature, temperature if teacher_temperature is None else teacher_temperature)

    def token_loss(tokens: Tensor, *logits: Tensor) -> TokenLoss:
        student, teacher = (
            Distribution.of(each if own == 1.0 else each / own) for each, own in zip(logits, temperatures, strict=True)
        )
        values, gradient = divergence(student, teacher)
        diagnostics = {
            "kl": values if isinstance(divergence, ForwardKL) else teacher.mean(teacher.log_ratio(student)),
            "teacher_entropy": teacher.entropy(),
            "student_entropy": student.entropy(),
            "agreement": student.agrees(teacher).to(values.dtype),
        }
        return TokenLoss(values, gradient.div_(temperature) if temperature != 1.0 else gradient, diagnostics)

    beside = Projection(teacher_hidden, teacher_head)
    return head_loss(student_hidden, student_head, weights, token_loss, beside, chunk_tokens)
