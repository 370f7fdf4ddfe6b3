"""Rollouts from vLLM, in the training process or from a server (extra ``vllm``)."""

from lightning_sdft.rollout.vllm.engine import VLLMEngine
from lightning_sdft.rollout.vllm.server import VLLMServer

__all__ = ["VLLMEngine", "VLLMServer"]
