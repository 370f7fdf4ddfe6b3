from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Head, TruncatedImportance, fused
from lightning_sdft.policy import Policy
from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import generate, score, score_rollouts
from lightning_sdft.rollout.sampling import log_probabilities
from tests.rollout.test_in_process import ragged_prompts

SAMPLINGS = [Sampling(), Sampling(0.6), GREEDY, Sampling(1.3, top_p=0.8), Sampling(top_k=5), Sampling(min_p=0.1)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_scores_of_the_policys_own_rollouts_are_what_they_came_with(policy: Policy, sampling: Sampling) -> None:
    """In every family: with soft caps, scales and biases of the head."""
    rollouts = generate(policy, ragged_prompts(), 8, sampling, seeds=range(12))
    policy.eval()
    ours, sampler = score_rollouts(rollouts, policy.hidden(rollouts), policy.head, sampling)
    assert sampler.tolist() == pytest.approx([each for rollout in rollouts for each in rollout.log_probabilities])
    kept = ours > -torch.inf  # a token at the edge of the support may fall on either side of it by rounding
    assert kept.float().mean() > 0.97
    torch.testing.assert_close(ours[kept], sampler[kept], rtol=1e-4, atol=2e-4)


def test_no_gradient_is_computed(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = generate(llama, ragged_prompts(), 4, Sampling(), seeds=range(12))
    hidden = llama.hidden(rollouts)
    assert hidden.requires_grad
    products: list[str] = []
    multiply = fused._Factor.multiply
    monkeypatch.setattr(
        fused._Factor, "multiply", lambda *each, **how: products.append("one") or multiply(*each, **how)
    )
    ours, sampler = score_rollouts(rollouts, hidden, llama.head, Sampling())
    assert not ours.requires_grad
    assert not sampler.requires_grad
    assert len(products) == 1  # to the logits, and none back


def test_head_of_any_precision(family_folder: Callable[[str], Path]) -> None:
    hidden = torch.randn(5, 8, dtype=torch.float64)
    weight = torch.randn(11, 8, dtype=torch.float64)
    tokens = torch.tensor([0, 3, 10, 7, 7])
    expected = (hidden @ weight.T / 0.5).log_softmax(-1)[torch.arange(5), tokens]
    torch.testing.assert_close(score(hidden, Head(weight), tokens, Sampling(0.5)), expected)


def truncated_sampler(sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Logits of a policy, and of a sampler that is nearly the same, at 200 tokens."""
    generator = torch.Generator().manual_seed(0)
    policy = 2 * torch.randn(200, 50, generator=generator)
    return policy, policy + 0.02 * torch.randn(200, 50, generator=generator)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7), Sampling(top_p=0.8), Sampling(top_k=5), Sampling(0.7, min_p=0.1)]
)
def test_expected_ratio_is_1_also_where_sampling_truncates(sampling: Sampling) -> None:
    """Summed over all tokens that the sampler may draw; against the whole vocabulary it would be what was cut off."""
    policy, sampler = truncated_sampler(sampling)
    ratios, naive = torch.zeros(200), torch.zeros(200)
    for token in range(50):
        drawn = torch.full((200,), token)
        q = log_probabilities(sampler, sampling, drawn)
        p = log_probabilities(policy, sampling, drawn)
        possible = q > -torch.inf
        ratios += torch.where(possible, q.exp() * TruncatedImportance(2.0).ratios(p, q.where(possible, 0)), 0)
        whole = log_probabilities(policy, Sampling(sampling.temperature), drawn)
        naive += torch.where(possible, whole.exp(), 0)
    assert ratios.mean().item() == pytest.approx(1, abs=0.01)
    restricted = sampling not in (Sampling(), Sampling(0.7))
    assert (naive.mean().item() < 0.95) == restricted
