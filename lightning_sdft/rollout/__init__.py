"""On-policy generation."""

from lightning_sdft.rollout.engine import generate
from lightning_sdft.rollout.record import GREEDY, Rollout, Sampling

__all__ = ["GREEDY", "Rollout", "Sampling", "generate"]
