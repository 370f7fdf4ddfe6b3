"""On-policy generation."""

from lightning_sdft.rollout.base import RolloutEngine, RolloutError
from lightning_sdft.rollout.engine import InProcessEngine, draw_seeds, generate
from lightning_sdft.rollout.record import GREEDY, Rollout, Sampling
from lightning_sdft.rollout.scoring import score, score_rollouts
from lightning_sdft.rollout.vllm import VLLMEngine, VLLMServer

__all__ = [
    "GREEDY",
    "InProcessEngine",
    "Rollout",
    "RolloutEngine",
    "RolloutError",
    "Sampling",
    "VLLMEngine",
    "VLLMServer",
    "draw_seeds",
    "generate",
    "score",
    "score_rollouts",
]
