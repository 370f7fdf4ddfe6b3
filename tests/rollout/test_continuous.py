from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig

from lightning_sdft.errors import RolloutError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.records import GREEDY, Rollout, Sampling
from lightning_sdft.rollout import ContinuousEngine, generate, score_rollouts
from lightning_sdft.rollout.continuous import NEEDED
from tests.conftest import STOP_IDS, move_adapter
from tests.rollout.test_in_process import ragged_prompts

pytestmark = pytest.mark.skipif(
    not set(ContinuousBatchingConfig.__dataclass_fields__) >= NEEDED, reason="transformers is older than its seeds"
)

MAX_TOKENS = 12


def started(policy: Policy) -> ContinuousEngine:
    engine = ContinuousEngine()
    engine.start(policy, 14 + MAX_TOKENS)
    return engine


def write(policy: Policy, sampling: Sampling, first_seed: int = 0, count: int = 12) -> list[Rollout]:
    seeds = range(first_seed, first_seed + count)
    return ContinuousEngine().generate(policy, ragged_prompts(count), MAX_TOKENS, sampling, list(seeds), step=0)


def differences(policy: Policy, rollouts: list[Rollout], sampling: Sampling) -> torch.Tensor:
    """How far the engine's log-probabilities are from the policy's own."""
    with torch.no_grad():
        own, sampler = score_rollouts(rollouts, policy.eval().hidden(rollouts), policy.head, sampling)
    return (own - sampler).abs()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "granite"])  # Gemma's prompts reach past its window
def test_greedy_rollouts_are_those_of_the_policy(family: str, family_folder: Callable[[str], Path]) -> None:
    policy = Policy.load(str(family_folder(family)))
    started(policy)
    found, own = write(policy, GREEDY), generate(policy, ragged_prompts(), MAX_TOKENS, GREEDY)
    for ours, expected in zip(found, own, strict=True):
        assert (ours.prompt, ours.completion, ours.finished) == (
            expected.prompt,
            expected.completion,
            expected.finished,
        )
        assert ours.log_probabilities == pytest.approx(expected.log_probabilities, abs=2e-5)


@pytest.mark.parametrize(
    "sampling", [Sampling(0.7), Sampling(1.3, top_p=0.8, top_k=20), Sampling(1.0, top_k=9, min_p=0.1)]
)
def test_samples_come_from_the_distribution_that_is_asked_for(sampling: Sampling, llama: Policy) -> None:
    rollouts = write(llama, sampling)
    assert differences(llama, rollouts, sampling).max() < 2e-5
    assert len({tuple(each.completion) for each in rollouts}) > 6
    for each in rollouts:
        assert each.finished == (each.completion[-1] in STOP_IDS)
        assert each.finished or len(each.completion) == MAX_TOKENS


def test_rollouts_of_a_step_repeat_and_leave_the_run_as_it_was(llama: Policy) -> None:
    attention = llama.model.config._attn_implementation
    state = torch.get_rng_state()
    first, other, again = (write(llama.train(), Sampling(), seed) for seed in (0, 1, 0))
    assert again == first
    assert other != first
    assert torch.equal(torch.get_rng_state(), state)
    assert llama.model.config._attn_implementation == attention
    assert llama.training


def test_adapter_takes_part_and_autocast_does_not(llama: Policy) -> None:
    add_adapter(llama.model, LoRA(rank=2))
    plain = write(llama, GREEDY)
    move_adapter(llama.model)
    adapted = write(llama, GREEDY)
    assert [each.completion for each in adapted] != [each.completion for each in plain]
    assert differences(llama, adapted, GREEDY).max() < 2e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert write(llama, GREEDY) == adapted


def test_what_it_would_do_otherwise_is_refused(
    llama: Policy, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RolloutError, match="min_p behind top_p, and everything else before it: set one of the two"):
        write(llama, Sampling(top_p=0.9, min_p=0.1))
    with pytest.raises(RolloutError, match="Gemma2ForCausalLM computes something else under continuous batching"):
        started(Policy.load(str(family_folder("gemma2"))))  # whose soft cap the attention in pages leaves out

    def failing(*_: Any, **__: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(type(llama.model), "forward", failing)
    with pytest.raises(RolloutError, match=r"LlamaForCausalLM does not take continuous batching .*no room"):
        started(llama)
    assert llama.model.config._attn_implementation == "sdpa"
