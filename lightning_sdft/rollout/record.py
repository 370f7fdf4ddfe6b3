"""What generation takes and gives: sampling arguments and rollouts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_sdft.records import TokenSequence

__all__ = ["Rollout", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: Logits are divided by it; 0 takes the most probable token (greedy).
        top_p: Draw only from the most probable tokens that together have this probability.
        top_k: Draw only from this many most probable tokens; 0 means all.
        min_p: Draw only from tokens at least this share as probable as the most probable one.

    Raises:
        ValueError: If a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.top_k >= 0 and 0 <= self.min_p < 1):
            raise ValueError(f"{self}: temperature must be >= 0, top_p within (0, 1], top_k >= 0, min_p within [0, 1)")


GREEDY = Sampling(temperature=0.0)

torch.serialization.add_safe_globals([Sampling])  # a checkpoint may name it, and is loaded without pickle's freedom


@dataclass(frozen=True)
class Rollout(TokenSequence):
    """A completion that a policy wrote.

    Args:
        prompt: Token ids of the prompt.
        completion: Token ids of the completion; the last one ends the response if it is finished.
        log_probabilities: The sampler's log-probability of each completion token.
        finished: Whether the response ended by itself; otherwise it was truncated.
    """

    log_probabilities: list[float]
    finished: bool
