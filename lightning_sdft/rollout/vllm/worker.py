"""Code that runs inside vLLM: an extension of its worker, which reports the worker's settings and weights.

vLLM loads it by name: ``--worker-extension-cls lightning_sdft.rollout.vllm.worker.PolicyWorker``.
"""

from __future__ import annotations

from typing import Any

from lightning_sdft.rollout.vllm.fingerprint import tensor_sums

__all__ = ["SHAPE", "PolicyWorker"]

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
"""Fields of a model's config that are compared to detect another model."""


class PolicyWorker:
    """Adds methods to vLLM's worker, which the engines call."""

    vllm_config: Any
    model_runner: Any

    def policy_settings(self) -> dict[str, Any]:
        """The model's shape, and the settings on which rollouts depend."""
        config = self.vllm_config.model_config
        return {
            "shape": {name: getattr(config.hf_text_config, name, None) for name in SHAPE},
            "max_tokens": config.max_model_len,
            "log_probabilities": config.logprobs_mode,
            "dtype": str(config.dtype).removeprefix("torch."),
        }

    def policy_sums(self) -> list[dict[str, Any]]:
        """Checksums of the worker's weights."""
        return tensor_sums(self.model_runner.get_model())
