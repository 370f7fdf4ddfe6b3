from __future__ import annotations

from collections import Counter

import pytest
import torch

from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate
from tests.rollout.reference import generate_with_transformers
from tests.rollout.test_in_process import MAX_TOKENS, chi_square, model_logits, pair_probabilities, ragged_prompts


def test_greedy_rollouts_are_ours(policy: Policy) -> None:
    ours = generate(policy, ragged_prompts(), MAX_TOKENS, GREEDY)
    reference = generate_with_transformers(policy, ragged_prompts(), MAX_TOKENS, GREEDY)
    for ours_, theirs in zip(ours, reference, strict=True):
        assert (theirs.prompt, theirs.completion, theirs.finished) == (ours_.prompt, ours_.completion, ours_.finished)
        expected = torch.tensor(ours_.log_probabilities)
        torch.testing.assert_close(torch.tensor(theirs.log_probabilities), expected, rtol=1e-4, atol=1e-4)


def test_samples_follow_the_probabilities_of_the_model(llama: Policy) -> None:
    prompt, sampling = [2, 11, 12, 13, 3], Sampling(0.6)
    rollouts = generate_with_transformers(llama, [prompt] * 4000, 2, sampling, seeds=range(4000))
    counts = Counter(tuple(rollout.completion) for rollout in rollouts)
    llama.eval()
    statistic, critical = chi_square(counts, pair_probabilities(llama, prompt, 0.6))
    assert statistic < critical


@pytest.mark.parametrize("sampling", [Sampling(1.5), Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=0.3)])
def test_log_probabilities_are_those_of_what_was_drawn_from(llama: Policy, sampling: Sampling) -> None:
    llama.eval()
    rollouts = generate_with_transformers(llama, ragged_prompts(), MAX_TOKENS, sampling, seeds=range(12))
    ours = generate(llama, ragged_prompts(), MAX_TOKENS, sampling, seeds=range(12))
    for rollout in [*rollouts, *ours]:  # both by one definition
        scores = (model_logits(llama, rollout.prompt, rollout.completion) / sampling.temperature).softmax(-1)
        for score, token, value in zip(scores, rollout.completion, rollout.log_probabilities, strict=True):
            ordered = score.sort(descending=True).values
            allowed = (score >= ordered[(sampling.top_k or len(score)) - 1]) & (score >= sampling.min_p * score.max())
            allowed &= score >= ordered[int((ordered.cumsum(-1) < sampling.top_p).sum().clamp(max=len(score) - 1))]
            assert allowed[token]
            assert value == pytest.approx((score[token] / score[allowed].sum()).log().item(), abs=1e-3)


def test_seeds_give_the_same_rollouts_again_and_leave_the_global_generator_alone(llama: Policy) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        generate_with_transformers(llama, ragged_prompts(), 4, Sampling(), seeds)
        for seeds in (range(12), range(12), range(1, 13))
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_defaults_of_the_model_are_not_applied(llama: Policy) -> None:
    plain = generate_with_transformers(llama, ragged_prompts(), 4, Sampling(), seeds=range(12))
    llama.model.generation_config.update(top_k=1, top_p=0.1, temperature=0.1, do_sample=True, repetition_penalty=1.7)
    assert generate_with_transformers(llama, ragged_prompts(), 4, Sampling(), seeds=range(12)) == plain
    greedy = generate_with_transformers(llama, ragged_prompts(), 4, GREEDY)
    expected = generate(llama, ragged_prompts(), 4, GREEDY)
    assert [rollout.completion for rollout in greedy] == [rollout.completion for rollout in expected]
