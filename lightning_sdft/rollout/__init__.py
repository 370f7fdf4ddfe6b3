"""On-policy generation."""

from lightning_sdft.errors import RolloutError
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout.base import RolloutEngine
from lightning_sdft.rollout.in_process import InProcessEngine, draw_seeds, generate
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
