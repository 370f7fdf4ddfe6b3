"""On-policy generation: engines that sample completions from the current policy."""

from lightning_sdft.rollout.base import RolloutEngine
from lightning_sdft.rollout.budget import Sample, budgeted, respond, respond_ways
from lightning_sdft.rollout.continuous import ContinuousEngine
from lightning_sdft.rollout.in_process import InProcessEngine, draw_seeds, generate, generate_ways, own_seeds
from lightning_sdft.rollout.scoring import score, score_rollouts
from lightning_sdft.rollout.vllm import VLLMEngine, VLLMServer

__all__ = [
    "ContinuousEngine",
    "InProcessEngine",
    "RolloutEngine",
    "Sample",
    "VLLMEngine",
    "VLLMServer",
    "budgeted",
    "draw_seeds",
    "generate",
    "generate_ways",
    "own_seeds",
    "respond",
    "respond_ways",
    "score",
    "score_rollouts",
]
