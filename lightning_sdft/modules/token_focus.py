"""Scores the tokens of rollouts by what there is to learn at them, for :class:`TokenFocus`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.losses import Head, HeadLoss, TokenFocus, cross_entropy
from lightning_sdft.teacher import Teacher

__all__ = ["focus_factors"]


@torch.no_grad()
def focus_factors(
    focus: TokenFocus,
    batch: MicroBatch,
    skip_tokens: int,
    teacher: Teacher,
    teacher_hidden: Tensor,
    loss: Callable[[Tensor], HeadLoss],
) -> Tensor:
    """Factors on the weights of a micro-batch's completion tokens, `(N,)`.

    Args:
        focus: By what tokens are scored, and how uneven the factors are.
        batch: The micro-batch.
        skip_tokens: Number of tokens at the start of each completion that do not count in the loss.
        teacher: The teacher. Focus by ``gain`` asks it once more, without what only it sees.
        teacher_hidden: Its final hidden states, shown what only it sees, `(N, H)`.
        loss: The loss of the step with the weights that are given, `(N,)`.
    """
    ones = torch.ones(len(teacher_hidden), device=teacher_hidden.device)
    if focus.by == "divergence":
        scores = loss(ones).values
    else:
        nll = partial(_nll, teacher.head, batch.targets().to(ones.device), ones)
        scores = nll(teacher.hidden(batch.student_sequences)) - nll(teacher_hidden)
    return focus(scores, batch.completion_lengths, skip_tokens)


def _nll(head: Head, targets: Tensor, weights: Tensor, hidden: Tensor) -> Tensor:
    return cross_entropy(hidden, head, targets, weights).values
