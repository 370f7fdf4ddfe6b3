"""Rollouts from vLLM in the training process."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import distributed

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.rollout.vllm.base import LOG_PROBABILITIES, WORKER, VLLMRollouts
from lightning_sdft.rollout.vllm.fingerprint import check_weights
from lightning_sdft.settings import PositiveShare, check_ranges

__all__ = ["VLLMEngine"]


@dataclass
class VLLMEngine(VLLMRollouts):
    """Rollouts from vLLM in the training process, on its device (extra ``vllm``).

    While the policy trains, vLLM sleeps and holds no memory, if the platform supports that (GPUs do). It works with a
    single process only; with several, use :class:`VLLMServer`.

    Args:
        gpu_memory_utilization: Fraction of the device's memory that vLLM may use while it samples.
        dtype: Precision in which vLLM computes; by default the one in which the policy computes.
        options: Further arguments of ``vllm.LLM``, such as ``max_num_seqs`` and ``enforce_eager``.
    """

    gpu_memory_utilization: PositiveShare = 0.3
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    _llm: Any = field(default=None, init=False, repr=False, compare=False)
    _sleeps: bool = field(default=False, init=False, repr=False, compare=False)
    _owns_group: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_ranges(VLLMEngine, vars(self))

    def start(self, policy: Policy, max_tokens: int) -> None:
        """Build vLLM for the architecture of the policy; the weights are sent before the first rollout."""
        super().start(policy, max_tokens)
        self.stop()
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            raise RolloutError(
                f"VLLMEngine runs in one process, not in {distributed.get_world_size()}; set trainer.devices=1, or "
                "start a vLLM server and use engine VLLMServer"
            )
        if policy.device.index:
            raise RolloutError(
                f"VLLMEngine samples on the first device, but the policy is on {policy.device}; set trainer.devices=1, "
                "and choose the device with CUDA_VISIBLE_DEVICES"
            )
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise RolloutError("VLLMEngine needs vLLM; pip install 'lightning-sdft[vllm]'") from error
        self._sleeps = current_platform.is_sleep_mode_available()
        if not self._sleeps:
            rank_zero_info("vLLM cannot sleep on this platform: it keeps its memory while the policy trains.")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, where it can read the policy's tensors
        # It warns of each layer that it finds no weights for. We check by the fingerprint that all have arrived.
        logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
        self._owns_group = not distributed.is_initialized()
        if self._owns_group:  # else vLLM makes a group that, on GPUs, cannot gather CPU tensors
            store = distributed.HashStore()  # type: ignore[attr-defined]
            distributed.init_process_group(store=store, rank=0, world_size=1)
        dtype = str(policy.compute_dtype).removeprefix("torch.") if self.dtype == "auto" else self.dtype
        with tempfile.TemporaryDirectory(prefix="policy-config-") as folder, _apart(policy):
            policy.config.save_pretrained(folder)
            try:
                self._llm = LLM(
                    model=folder,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    dtype=dtype,
                    max_model_len=max_tokens,
                    gpu_memory_utilization=self.gpu_memory_utilization,
                    logprobs_mode=LOG_PROBABILITIES,
                    worker_extension_cls=WORKER,
                    enable_sleep_mode=self._sleeps,
                    **self.options,
                )
            except (RuntimeError, TypeError, ValueError) as error:
                raise RolloutError(
                    f"vLLM cannot run the policy ({error}); change engine.options, or leave engine out"
                ) from error
        self._sleep()

    def send_weights(self, policy: Policy) -> str:
        """Let vLLM copy the policy's tensors, and check that it has them."""
        weights = policy.weights()
        with _apart(policy):
            if self._sleeps:
                self._llm.wake_up(tags=["weights"])
            tensors = ((name, each.detach()) for name, each in weights.items())
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
            if self._sleeps:
                self._llm.wake_up(tags=["kv_cache"])
            return check_weights(weights, self._llm.collective_rpc("policy_sums"))

    def complete(
        self, policy: Policy, prompts: Sequence[list[int]], parameters: Sequence[dict[str, Any]]
    ) -> list[tuple[list[int], list[float]]]:
        """Sample all completions in one call of vLLM."""
        from vllm import SamplingParams

        salted = [{"prompt_token_ids": prompt, "cache_salt": self._fingerprint} for prompt in prompts]
        sampling = [SamplingParams(**each, detokenize=False) for each in parameters]
        with _apart(policy):
            outputs = [answer.outputs[0] for answer in self._llm.generate(salted, sampling, use_tqdm=False)]
        self._sleep()
        return [
            (
                list(output.token_ids),
                [scores[token].logprob for token, scores in zip(output.token_ids, output.logprobs, strict=True)],
            )
            for output in outputs
        ]

    def stop(self) -> None:
        """Shut vLLM down."""
        if self._llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        if self._owns_group:
            cleanup_dist_env_and_memory()

    def _sleep(self) -> None:
        if self._sleeps:
            self._llm.sleep(level=2)  # level 2 drops the weights: they are sent again before the next rollout
            self._step = None


@contextmanager
def _apart(policy: Policy) -> Iterator[None]:
    """Isolate vLLM from training: from its random state, so that runs can be resumed exactly, and from autocast."""
    with isolate_rng(), torch.no_grad(), torch.autocast(policy.device.type, enabled=False):
        yield


torch.serialization.add_safe_globals([VLLMEngine])  # checkpoints store it in their hyperparameters
