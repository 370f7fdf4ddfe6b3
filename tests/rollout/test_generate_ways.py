from __future__ import annotations

import pytest

from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate, generate_ways
from tests.rollout.test_in_process import MAX_TOKENS, ragged_prompts


def test_each_way_completes_its_prompts_as_if_it_were_alone(policy: Policy) -> None:
    prompts, seeds = ragged_prompts(), list(range(12))
    ways = [(GREEDY, 12), (Sampling(temperature=0.8), 5), (Sampling(temperature=1.5), 12)]
    together = generate_ways(policy, prompts, MAX_TOKENS, ways, seeds)
    for (sampling, count), rollouts in zip(ways, together, strict=True):
        alone = generate(policy, prompts[:count], MAX_TOKENS, sampling, seeds[:count])
        assert [each.completion for each in rollouts] == [each.completion for each in alone]
        for one, other in zip(rollouts, alone, strict=True):
            assert one.log_probabilities == pytest.approx(other.log_probabilities, rel=1e-4, abs=1e-4)
    assert len({str([each.completion for each in rollouts[:5]]) for rollouts in together}) == 3


def test_several_ways_read_the_prompts_once(llama: Policy) -> None:
    read: list[int] = []
    count = llama.model.base_model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    with count:
        generate_ways(llama, ragged_prompts(), 1, [(GREEDY, 12), (Sampling(), 12)], list(range(12)))
    assert sum(read) == 12
