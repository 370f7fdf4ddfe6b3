"""Divergences on the most probable tokens alone, as most other implementations of on-policy distillation compute them.

Letters: N tokens, V vocabulary, K tokens that are told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import FLOOR, Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK(Divergence):
    """A divergence between what student and teacher give to the k most probable tokens.

    With the tail, all other tokens are one more outcome, whose probability is the sum of theirs: a lower bound of the
    divergence over the full vocabulary. Without it, both distributions are renormalised over the k tokens, and how much
    probability lies elsewhere does not matter.

    Args:
        k: How many tokens are told apart.
        divergence: What is computed on them; by default ``ForwardKL``.
        support: Whose most probable tokens: the ``teacher``'s, the ``student``'s, or the ``union`` of both.
        tail: Whether all other tokens are one more outcome.

    Raises:
        ValueError: If ``k`` is not positive.
    """

    k: int = 100
    divergence: Divergence = ForwardKL()  # noqa: RUF009  # frozen
    support: Literal["teacher", "student", "union"] = "teacher"
    tail: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"divergence.k={self.k} must be at least 1")

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value; and gradient, which the tail hands on to each of its tokens by its share `p_S / tail`.

        For the logit of the tail is `log sum exp` of its tokens' logits, whose derivative is that share.
        """
        tokens, repeated = self._tokens(student, teacher)
        coarse_student, rest, tail = self._coarse(student, tokens, repeated)
        coarse_teacher, _, _ = self._coarse(teacher, tokens, repeated)
        value, coarse_gradient = self.divergence(coarse_student, coarse_teacher)
        count = tokens.shape[-1]
        if self.tail:
            gradient = rest.mul_(coarse_gradient[:, count:] / tail.clamp(min=torch.finfo(tail.dtype).tiny))
        else:
            gradient = rest.zero_()
        return value, gradient.scatter_add_(-1, tokens, coarse_gradient[:, :count])

    def _tokens(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """The tokens told apart `(N, K)`, and where one of them stands a second time `(N, K)`."""
        chosen = {"teacher": [teacher], "student": [student], "union": [teacher, student]}[self.support]
        k = min(self.k, student.probabilities.shape[-1])
        best = [each.probabilities.topk(k).indices for each in chosen]
        repeated = [torch.zeros_like(best[0], dtype=torch.bool)]
        if len(best) == 2:
            member = torch.zeros_like(student.probabilities, dtype=torch.bool).scatter_(-1, best[0], True)
            repeated.append(member.gather(-1, best[1]))
        return torch.cat(best, -1), torch.cat(repeated, -1)

    def _coarse(self, full: Distribution, tokens: Tensor, repeated: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """The distribution over the tokens and the tail, the other tokens' probabilities `(N, V)`, their sum `(N, 1)`.

        A token that stands there a second time is made impossible.
        """
        logits = (full.logits.gather(-1, tokens) - full.normalizer).masked_fill_(repeated, FLOOR)
        rest = full.probabilities.scatter(-1, tokens, 0.0)
        tail = rest.sum(-1, keepdim=True)
        tail_logit = tail.log().clamp(min=FLOOR)
        return Distribution.of(torch.cat([logits, tail_logit], -1) if self.tail else logits), rest, tail


torch.serialization.add_safe_globals([TopK])  # see ForwardKL
