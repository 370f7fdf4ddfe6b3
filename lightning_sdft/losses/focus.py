"""More weight for the tokens of a completion where there is more to learn.

Letters: N completion tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_sdft.settings import NonNegative, check_ranges

__all__ = ["TokenFocus"]


@dataclass(frozen=True)
class TokenFocus:
    """Factors on the weights of tokens, `f_t = s_t^power / mean(s^power)`, for a score `s_t >= 0` of each token.

    The score is how much student and teacher disagree there (``values`` of a :func:`distillation_loss` without
    gradient), or how much likelier the token is to the teacher that sees the demonstration than to the teacher that
    does not. The mean is over the tokens of the same completion that
    count in the loss, so that each completion keeps its weight; the mean over micro-batches is that over the group.
    It is not a divergence: before the first token's gradient is computed, all tokens' scores must be known.

    Args:
        power: How uneven the factors are: with 0 all are 1; with 1 they are proportional to the scores.
        by: What the scores are: the ``divergence``, or the teacher's ``gain`` in log-probability, which takes another
            pass of the teacher.

    Raises:
        SettingError: If ``power`` is negative.

    Example:
        >>> TokenFocus()(torch.tensor([0.0, 0.1, 0.3, 2.0]), lengths=[3, 1])
        tensor([0.0000, 0.7500, 2.2500, 1.0000])
    """

    power: NonNegative = 1.0
    by: Literal["divergence", "gain"] = "divergence"

    def __post_init__(self) -> None:
        check_ranges(TokenFocus, vars(self))

    def __call__(self, scores: Tensor, lengths: Sequence[int], skip_tokens: int = 0) -> Tensor:
        """Factor of each token.

        Args:
            scores: `(N,)`; what is below 0 counts as 0.
            lengths: Number of completion tokens of each sequence.
            skip_tokens: Number of tokens at the start of each completion that do not count in the loss.

        Returns:
            `(N,)`, without gradient; 1 at tokens that do not count, and throughout a completion whose scores are all 0.
        """
        factors = torch.ones_like(scores, requires_grad=False)
        finite = scores.detach().clamp(0, torch.finfo(scores.dtype).max)
        for part, out in zip(finite.split(list(lengths)), factors.split(list(lengths)), strict=True):
            counted = part[skip_tokens:]
            if counted.any():
                shares = (counted / counted.max()) ** self.power
                out[skip_tokens:] = shares / shares.mean()
        return factors


torch.serialization.add_safe_globals([TokenFocus])  # see ForwardKL
