"""The common part of both vLLM engines, in the training process and in a server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.distributed.tensor import DTensor

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import adapted_layers
from lightning_sdft.policy.quantized import stored_as
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout.base import RolloutEngine

__all__ = ["LOG_PROBABILITIES", "WORKER", "VLLMRollouts"]

LOG_PROBABILITIES = "processed_logprobs"
"""vLLM's setting for log-probabilities of the distribution it samples from, after temperature and truncation."""

WORKER = "lightning_sdft.rollout.vllm.worker.PolicyWorker"
"""Import path of our extension of vLLM's worker."""


@dataclass
class VLLMRollouts(RolloutEngine):
    """Keeps vLLM's weights up to date with the policy's, and samples from it; prompts and answers are token ids."""

    _fingerprint: str = field(default="", init=False, repr=False, compare=False)
    _step: int | None = field(default=None, init=False, repr=False, compare=False)

    def start(self, policy: Policy, max_tokens: int) -> None:
        """Check that vLLM can take the policy's weights; see :meth:`RolloutEngine.start`."""
        if any(isinstance(parameter, DTensor) for parameter in policy.parameters()):
            raise RolloutError(
                f"{type(self).__name__} cannot take the weights of a policy that is sharded over processes (fsdp2); "
                "train with strategy auto or ddp, or leave engine out"
            )
        if policy.tokenizer.images is not None:
            raise RolloutError(
                f"{type(self).__name__} is not tested with {type(policy.model).__name__}, which reads images; leave "
                "engine out"
            )
        model = policy.model
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        if model.config.tie_word_embeddings and any(adapted_layers(layer) for layer in ends):
            raise RolloutError(
                f"{type(self).__name__} treats head and embedding of {type(model).__name__} as one tied weight, and an "
                "adapter on either unties them; leave both out of lora.target_modules and modules_to_save, or leave "
                "engine out"
            )
        if (stored := stored_as(model)) != "full":
            raise RolloutError(
                f"{type(self).__name__} cannot take the weights of a model in few bits (lora.base={stored}); leave "
                "engine out, or set lora.base=full"
            )
        self._step = None

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        """Sample a completion of each prompt; see :meth:`RolloutEngine.generate`.

        After each optimizer step the weights are sent to vLLM and compared. Their fingerprint is the salt of vLLM's
        prefix cache, so that prefixes computed with older weights are never reused.
        """
        if step != self._step:
            self._fingerprint = self.send_weights(policy)
            self._step = step
        stop_ids = policy.tokenizer.stop_ids
        parameters = [_parameters(sampling, max_tokens, stop_ids, seed) for seed in seeds]
        completions = self.complete(policy, prompts, parameters)
        for completion, log_probabilities in completions:
            if len(completion) != len(log_probabilities):
                raise RolloutError(
                    f"vLLM gave {len(log_probabilities)} log-probabilities for {len(completion)} tokens; use a version "
                    "of vLLM that this package supports"
                )
            if len(completion) < max_tokens and stop_ids.isdisjoint(completion[-1:]):
                raise RolloutError(
                    f"vLLM truncated a completion at {len(completion)} tokens, where {max_tokens} were asked for; let "
                    "it generate more: start a server with a larger --max-model-len and --generation-config vllm"
                )
        return [
            Rollout(prompt, completion, log_probabilities, completion[-1] in stop_ids)
            for prompt, (completion, log_probabilities) in zip(prompts, completions, strict=True)
        ]

    @abstractmethod
    def send_weights(self, policy: Policy) -> str:
        """Give vLLM the weights of the policy, and return their fingerprint."""

    @abstractmethod
    def complete(
        self, policy: Policy, prompts: Sequence[list[int]], parameters: Sequence[dict[str, Any]]
    ) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of one completion per prompt, each with its own vLLM sampling parameters."""


def _parameters(sampling: Sampling, max_tokens: int, stop_ids: set[int], seed: int) -> dict[str, Any]:
    """Sampling settings under vLLM's names; all are given, because the model's defaults replace missing ones."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": max_tokens,
        "seed": seed,
        "ignore_eos": True,  # the model config's end token; stop_token_ids has ours
        "stop_token_ids": sorted(stop_ids),
        "logprobs": 0,
    }
