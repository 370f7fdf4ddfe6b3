"""On-policy generation."""

from lightning_sdft.rollout.engine import draw_seeds, generate
from lightning_sdft.rollout.record import GREEDY, Rollout, Sampling

__all__ = ["GREEDY", "Rollout", "Sampling", "draw_seeds", "generate"]
