"""A divergence from a target that is not the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL
from lightning_sdft.losses.target import Target

__all__ = ["Toward"]


@dataclass(frozen=True)
class Toward(Divergence):
    """A divergence between the student and a target, in place of the teacher.

    Args:
        target: What the student is pulled towards: ``GeometricMixture``, ``InformationBound``, ``DisagreementMixture``
            or ``AgreementProduct``.
        divergence: The divergence from it; by default ``ForwardKL``.

    Example:
        >>> from lightning_sdft.losses import GeometricMixture
        >>> student, teacher = (Distribution.of(torch.tensor([[0.0, gap]])) for gap in (0.0, 2.0))
        >>> Toward(GeometricMixture(0.5))(student, teacher)  # towards logits (0, 1)
        (tensor([0.1109]), tensor([[ 0.2311, -0.2311]]))
    """

    target: Target
    divergence: Divergence = ForwardKL()  # noqa: RUF009  # frozen

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value and gradient of the divergence; the target is a constant in it."""
        return self.divergence(student, self.target(student, teacher))

    def at(self, step: int) -> Toward:
        """With target and divergence at that optimizer step."""
        return replace(self, target=self.target.at(step), divergence=self.divergence.at(step))


torch.serialization.add_safe_globals([Toward])  # see ForwardKL
