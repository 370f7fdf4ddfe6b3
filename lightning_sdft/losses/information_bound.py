"""The target that learns only a share of what the teacher knows.

Letters: N tokens, V vocabulary; p student, T teacher, q target; d = log(T / p).

[1] iSDFT: Information-Proximal Self-Distillation for Continual Learning, 2026,
    https://github.com/KickItLikeShika/iSDFT (code; a paper is announced)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import FLOOR, Distribution
from lightning_sdft.losses.target import Target, mixture, ramp
from lightning_sdft.settings import Count, Share, check_ranges

__all__ = ["InformationBound"]

ITERATIONS = 10
"""Of Newton's method; after them the target of random distributions of any spread is within 1e-6 of the solution."""


@dataclass(frozen=True)
class InformationBound(Target):
    """The target of iSDFT [1]: the distribution closest to the student that has a share of the teacher's information.

    `q = argmin KL(q || p)` subject to `E_q[d] >= r KL(T || p)`. The solution is `q ~ p^(1-l) T^l`, with one l in [0, 1]
    per token, for which the two sides are equal. r rises in a straight line from ``start`` to ``end``.

    With r = 1 the target is the teacher. With r = 0 it is *not* the student, for which `E_p[d] = -KL(p || T)` is below
    0, but halfway to the teacher: there `KL(q || p) = KL(q || T)`. Where the two are close, l is about `(1 + r) / 2`.

    Args:
        start: r at the first step.
        end: r from then on.
        steps: Optimizer steps until ``end`` is reached.

    Raises:
        SettingError: If a share is not within [0, 1], or ``steps`` not positive.
    """

    start: Share = 0.25
    end: Share = 1.0
    steps: Count = 150

    def __post_init__(self) -> None:
        check_ranges(InformationBound, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> Distribution:
        """The target as at the first step."""
        if self.start == 1:
            return teacher
        return mixture(student, teacher, 1 - _teacher_share(student, teacher, self.start))

    def at(self, step: int) -> InformationBound:
        """The target with the share at that step."""
        share = ramp(self.start, self.end, self.steps, step)
        return replace(self, start=share, end=share)


def _teacher_share(student: Distribution, teacher: Distribution, share: float) -> Tensor:
    """The l of each token, `(N, 1)`, by Newton's method, or by bisection where a step leaves the interval that holds l.

    `E_q[d]` grows with l, and its derivative is the variance of d under q.
    """
    ratio = teacher.log_ratio(student)
    # Infinite where the student excludes what the teacher allows; no l < 1 reaches that, so it then approaches 1.
    wanted = share * teacher.mean(ratio)[:, None].clamp(max=math.sqrt(-FLOOR))
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    found = torch.full_like(wanted, (1 + share) / 2)
    unsettled = torch.ones_like(wanted, dtype=torch.bool)
    logits, weighted = torch.empty_like(ratio), torch.empty_like(ratio)
    tolerance = math.sqrt(torch.finfo(ratio.dtype).eps)
    for _ in range(ITERATIONS):
        torch.addcmul(student.logits, ratio, found, out=logits)
        torch.softmax(logits, -1, out=weighted)
        weighted.mul_(ratio)
        mean = weighted.sum(-1, keepdim=True)
        variance = (torch.linalg.vecdot(weighted, ratio)[:, None] - mean**2).clamp(min=torch.finfo(ratio.dtype).tiny)
        below = mean < wanted
        low, high = torch.where(below, found, low), torch.where(below, high, found)
        step = (wanted - mean) / variance
        inside = (found + step >= low) & (found + step <= high)
        nearer = torch.where(inside, found + step, (low + high) / 2)
        found = torch.where(unsettled, nearer, found)
        # Each token stops by itself, so that it does not matter which others it is computed with.
        unsettled &= ~inside | (step.abs() * variance.sqrt() > tolerance)
        if not unsettled.any():
            break
    return found


torch.serialization.add_safe_globals([InformationBound])  # see ForwardKL
