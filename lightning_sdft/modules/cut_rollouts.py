"""Rollouts that reach the length limit before they end: one warning if they are the most."""

from __future__ import annotations

from collections import deque

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["CutRollouts"]

STEPS = 8
"""Optimizer steps over which the share is taken."""

MOST = 0.5
"""Share of rollouts that are cut above which a run is warned of."""


class CutRollouts:
    """Warns once when most rollouts of the last steps were cut.

    Nobody grades a rollout, so training goes on with beginnings of answers, and no answer teaches how to end one.
    """

    def __init__(self) -> None:
        self._shares: deque[float] = deque(maxlen=STEPS)
        self._warned = False

    def add(self, share: float, max_completion_tokens: int) -> None:
        """Count an optimizer step.

        Args:
            share: Share of its rollouts that were cut.
            max_completion_tokens: The limit, for the warning.
        """
        self._shares.append(share)
        mean = sum(self._shares) / len(self._shares)
        if len(self._shares) < STEPS or mean <= MOST or self._warned:
            return
        self._warned = True
        rank_zero_warn(
            f"{mean:.0%} of the rollouts of the last {STEPS} steps were cut at max_completion_tokens="
            f"{max_completion_tokens} before they ended, so the student learns beginnings of answers and not to end "
            "one. Raise max_completion_tokens, ask for short answers in the prompts, or start from a model that ends "
            "its answers (one trained to chat)"
        )
