"""Divergences on the k most probable tokens only, as most implementations of on-policy distillation compute them.

Letters: N tokens, V vocabulary, K selected tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lightning_sdft.losses.distribution import FLOOR, Distribution
from lightning_sdft.losses.divergence import Divergence, ForwardKL
from lightning_sdft.settings import Count, check_ranges

__all__ = ["TopK"]


@dataclass(frozen=True)
class TopK(Divergence):
    """A divergence between student and teacher on the k most probable tokens.

    With the tail, all other tokens are merged into one more outcome, whose probability is the sum of theirs; the value
    is then a lower bound of the divergence over the full vocabulary. Without the tail, both distributions are
    renormalised over the k tokens, and the probability of all other tokens is ignored.

    Args:
        k: Number of most probable tokens to use.
        divergence: The divergence to compute on them; by default ``ForwardKL``.
        support: Whose most probable tokens to use: the ``teacher``'s, the ``student``'s, or the ``union`` of both.
        tail: Whether to merge all other tokens into one more outcome.

    Raises:
        SettingError: If ``k`` is not positive.
    """

    k: Count = 100
    divergence: Divergence = ForwardKL()  # noqa: RUF009  # frozen
    support: Literal["teacher", "student", "union"] = "teacher"
    tail: bool = True

    def __post_init__(self) -> None:
        check_ranges(TopK, vars(self))

    def at(self, step: int) -> TopK:
        """With the divergence at that optimizer step."""
        return replace(self, divergence=self.divergence.at(step))

    def __call__(self, student: Distribution, teacher: Distribution) -> tuple[Tensor, Tensor]:
        """Value, and gradient with respect to the logits of the full vocabulary.

        The logit of the tail is the `log sum exp` of its tokens' logits. By the chain rule each token in the tail
        receives the tail's gradient times its share `p_S / tail`.
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
        """The selected tokens `(N, K)`, and a mask `(N, K)` of those that the union lists a second time."""
        chosen = {"teacher": [teacher], "student": [student], "union": [teacher, student]}[self.support]
        k = min(self.k, student.probabilities.shape[-1])
        best = [each.probabilities.topk(k).indices for each in chosen]
        repeated = [torch.zeros_like(best[0], dtype=torch.bool)]
        if len(best) == 2:
            member = torch.zeros_like(student.probabilities, dtype=torch.bool).scatter_(-1, best[0], True)
            repeated.append(member.gather(-1, best[1]))
        return torch.cat(best, -1), torch.cat(repeated, -1)

    def _coarse(self, full: Distribution, tokens: Tensor, repeated: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """The distribution over selected tokens and tail, the other tokens' probabilities `(N, V)`, their sum `(N, 1)`.

        The second copy of a token that is listed twice gets probability 0.
        """
        logits = (full.logits.gather(-1, tokens) - full.normalizer).masked_fill_(repeated, FLOOR)
        rest = full.probabilities.scatter(-1, tokens, 0.0)
        tail = rest.sum(-1, keepdim=True)
        tail_logit = tail.log().clamp(min=FLOOR)
        return Distribution.of(torch.cat([logits, tail_logit], -1) if self.tail else logits), rest, tail


torch.serialization.add_safe_globals([TopK])  # see ForwardKL
