"""Rollouts by the continuous batching of transformers [1], from the very weights that train.

[1] Hugging Face, Continuous batching, 2026, https://huggingface.co/docs/transformers/continuous_batching
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
import transformers
from torch.distributed.tensor import DTensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.probe import logits_agree, text_tokens
from lightning_sdft.records import Rollout, Sampling
from lightning_sdft.rollout.base import RolloutEngine
from lightning_sdft.rollout.scoring import score_rollouts

__all__ = ["ContinuousEngine"]

PAGE = 256
"""Tokens in a page of the cache, of which a sequence takes as many as it needs."""

MOST_AT_ONCE = 2048
"""Tokens of prompts that are read at once."""

NEEDED = {"seed", "max_requests_per_batch"}
"""Settings that transformers has not always had."""


@dataclass
class ContinuousEngine(RolloutEngine):
    """Rollouts by the continuous batching of transformers [1]: a cache in pages, and a batch that is never empty.

    It needs no second copy of the weights and nothing is sent. Its sums have another order than the policy's own, so
    that log-probabilities differ in the last digits, and rollouts get importance weights. Those of a step repeat if the
    step does; one rollout alone does not, since all are drawn from one stream of random numbers. It computes in the
    precision of the weights, float32 with ``bf16-mixed``.

    On a GPU, :class:`InProcessEngine` took a fifteenth of its time where we measured both.
    """

    def problem(self, sampling: Sampling) -> str | None:
        """Refuse min_p together with top_p."""
        if not sampling.min_p or sampling.top_p == 1:
            return None
        return (
            "ContinuousEngine applies min_p behind top_p, and everything else before it: set one of the two, or leave "
            "engine out"
        )

    def start(self, policy: Policy, max_tokens: int) -> None:
        """Ask it for an answer, and compare that with the policy's own; see :meth:`RolloutEngine.start`."""
        model = type(policy.model).__name__
        if not {each.name for each in fields(ContinuousBatchingConfig)} >= NEEDED:
            raise RolloutError(
                f"ContinuousEngine needs a newer transformers than {transformers.__version__}; "
                "pip install --upgrade transformers, or leave engine out"
            )
        if any(isinstance(parameter, DTensor) for parameter in policy.parameters()):
            raise RolloutError(
                "ContinuousEngine cannot read the weights of a policy that is sharded over processes (fsdp2); train "
                "with strategy auto or ddp, or leave engine out"
            )
        if policy.tokenizer.images is not None:
            raise RolloutError(f"ContinuousEngine shows no images, which {model} reads; leave engine out")
        # It warns at each call that min_p "might not be supported", and prints the errors that we raise.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
        prompt = text_tokens(policy.model, policy.tokenizer, 6)
        try:
            found = self.generate(policy, [prompt], 4, Sampling(), [0], step=0)
        except Exception as error:  # whatever a model does with a cache in pages
            raise RolloutError(f"{model} does not take continuous batching ({error}); leave engine out") from error
        with torch.no_grad(), evaluating(policy):
            own, sampler = score_rollouts(found, policy.hidden(found), policy.head, Sampling())
        if not logits_agree(sampler, own, policy.compute_dtype):
            raise RolloutError(f"{model} computes something else under continuous batching; leave engine out")

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        """Sample a completion of each prompt; see :meth:`RolloutEngine.generate`."""
        if problem := self.problem(sampling):
            raise RolloutError(problem)
        stop_ids = policy.tokenizer.stop_ids
        how = {name: value for name, value in vars(sampling).items() if value or name == "top_k"}
        settings = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=sorted(stop_ids) or -1,
            **(how if sampling.temperature else {}),
        )
        lengths = [len(prompt) + max_tokens for prompt in prompts]
        batching = ContinuousBatchingConfig(
            num_blocks=sum(length // PAGE + 1 for length in lengths),
            max_batch_tokens=max(len(prompts), min(MOST_AT_ONCE, sum(map(len, prompts)))),
            max_requests_per_batch=len(prompts),
            return_logprobs=True,
            auto_switch_to_flash=False,
            seed=_one_seed(seeds),
        )
        with evaluating(policy), _own_random_numbers(policy):
            found = _completions(policy.model, prompts, settings, batching)
        return [
            Rollout(prompt, each.generated_tokens, each.logprobs, each.generated_tokens[-1] in stop_ids)
            for prompt, each in zip(prompts, found, strict=True)
        ]


torch.serialization.add_safe_globals([ContinuousEngine])  # checkpoints store it in their hyperparameters


def _completions(
    model: Any, prompts: Sequence[list[int]], settings: GenerationConfig, batching: ContinuousBatchingConfig
) -> list[Any]:
    """What transformers gives for each prompt; all are there before it begins, so that it always begins alike."""
    manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=batching)
    results: dict[str, Any] = {}
    try:
        names = manager.add_requests(inputs=list(prompts))
        manager.start()
        while len(results) < len(names):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                results[result.request_id] = result
            elif result is None and not manager.is_running():
                break
    finally:
        manager.stop()
        manager.destroy()
    failed = next((each.error for each in results.values() if each.error is not None), None)
    if failed is not None or len(results) < len(names):
        raise RolloutError(f"transformers gave {len(results)} of {len(names)} completions: {failed or 'it stopped'}")
    return [results[name] for name in names]


@contextmanager
def _own_random_numbers(policy: Policy) -> Iterator[None]:
    """What transformers seeds and draws does not touch the generators of the run."""
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


def _one_seed(seeds: Sequence[int]) -> int:
    """A seed that depends on all seeds and their order."""
    text = bytes(chain.from_iterable(seed.to_bytes(8) for seed in seeds))
    return int.from_bytes(hashlib.sha256(text).digest()[:4])
