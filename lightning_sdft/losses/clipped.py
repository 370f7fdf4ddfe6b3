"""A divergence with an upper limit per token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL
from lightning_sdft.settings import Positive, check_ranges

__all__ = ["Clipped"]


@dataclass(frozen=True)
class Clipped(Divergence):
    """`min(D, limit)` at each token: those above the limit, a few surprises among many tokens, have no gradient.

    Some implementations clip each vocabulary entry's summand instead. A divergence is a sum of positive and negative
    summands, of which that cuts only the positive ones: what is left can be negative, is lowest far from the teacher,
    and has another minimum.

    Args:
        limit: In nats. Tokens above it teach nothing, so it should be above most of them.
        divergence: The divergence; by default ``ForwardKL``.

    Raises:
        SettingError: If ``limit`` is not positive.

    Example:
        >>> student = Distribution.of(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))
        >>> teacher = Distribution.of(torch.tensor([[0.0, -100.0], [0.0, -100.0]]))
        >>> Clipped(2.0)(student, teacher)
        (tensor([0.6931, 2.0000]), tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]]))
    """

    limit: Positive
    divergence: Divergence = ForwardKL()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        check_ranges(Clipped, vars(self))

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value, and gradient of the divergence, which is 0 where it is above the limit."""
        value, gradient = self.divergence(student, teacher)
        return value.clamp(max=self.limit), gradient.masked_fill_((value > self.limit)[:, None], 0.0)

    def at(self, step: int) -> Clipped:
        """With the divergence at that optimizer step."""
        return replace(self, divergence=self.divergence.at(step))


torch.serialization.add_safe_globals([Clipped])  # see ForwardKL
