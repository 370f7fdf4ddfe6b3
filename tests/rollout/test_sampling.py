from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from lightning_sdft.records import GREEDY, Sampling
from lightning_sdft.rollout import sampling as drawing
from lightning_sdft.rollout.sampling import log_probabilities, sample
from tests.rollout.test_in_process import chi_square

PROBABILITIES = [0.05, 0.4, 0.3, 0.15, 0.1]


def drawn(sampling: Sampling, probabilities: list[float] = PROBABILITIES) -> dict[int, float]:
    """Tokens that are drawn by noise from all over [0, 1), with the log-probabilities they come with."""
    noise = torch.linspace(0, 1 - 1e-12, 2001, dtype=torch.float64)
    logits = torch.tensor(probabilities).log().expand(len(noise), -1)
    tokens, scores = sample(logits, sampling, noise)
    shares = Counter(tokens.tolist())
    result = {token: scores[tokens == token].unique().item() for token in shares}
    for token, score in result.items():
        assert shares[token] / len(noise) == pytest.approx(math.exp(score), abs=2e-3)
    return result


@pytest.mark.parametrize(
    ("sampling", "support"),
    [
        (Sampling(), {0, 1, 2, 3, 4}),
        (Sampling(top_k=1), {1}),
        (Sampling(top_k=3), {1, 2, 3}),
        (Sampling(top_k=50), {0, 1, 2, 3, 4}),
        (Sampling(top_p=0.3), {1}),
        (Sampling(top_p=0.5), {1, 2}),
        (Sampling(top_p=0.8), {1, 2, 3}),
        (Sampling(min_p=0.3), {1, 2, 3}),
        (Sampling(min_p=0.9), {1}),
        # top-k leaves 0.4 and 0.3, of which the first has 0.57 of the probability
        (Sampling(top_k=2, top_p=0.55), {1}),
        # the temperature comes first: squared and normalised 0.55, 0.31, 0.08, 0.03, 0.01
        (Sampling(temperature=0.5, top_p=0.5), {1}),
        (Sampling(temperature=0.5, min_p=0.3), {1, 2}),
    ],
)
def test_support(sampling: Sampling, support: set[int]) -> None:
    scores = drawn(sampling)
    assert scores.keys() == support
    powers = {token: PROBABILITIES[token] ** (1 / sampling.temperature) for token in support}
    for token, power in powers.items():
        assert scores[token] == pytest.approx(math.log(power / sum(powers.values())), abs=1e-5)


def test_token_of_probability_zero_is_never_drawn() -> None:
    assert drawn(Sampling(), [0.0, 0.5, 0.0, 0.5, 0.0]).keys() == {1, 3}


def test_greedy_takes_the_most_probable_token_with_its_own_probability() -> None:
    tokens, scores = sample(torch.tensor([PROBABILITIES]).log(), GREEDY, torch.zeros(1))
    assert tokens.tolist() == [1]
    assert scores.item() == pytest.approx(math.log(0.4))


# Large vocabularies


def sorted_support(logits: Tensor, sampling: Sampling) -> Tensor:
    """What may be drawn `(B, V)`, by the definition in terms of sorted probabilities; equal ones go together."""
    allowed = torch.ones_like(logits, dtype=torch.bool)
    for row, scores in enumerate(logits.double() / sampling.temperature):
        probabilities = scores.softmax(-1)
        if sampling.top_k:
            allowed[row] &= probabilities >= probabilities.sort(descending=True).values[sampling.top_k - 1]
        allowed[row] &= probabilities >= sampling.min_p * probabilities.max()
        probabilities = probabilities.where(allowed[row], 0) / probabilities[allowed[row]].sum()
        ordered = probabilities.sort(descending=True).values
        last = int((ordered.cumsum(-1) < sampling.top_p - 1e-9).sum().clamp(max=len(ordered) - 1))
        allowed[row] &= probabilities >= ordered[last]
    return allowed


def make_logits(rows: int = 4, size: int = 5000, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(rows, size, generator=torch.Generator().manual_seed(0))


RESTRICTED = [
    Sampling(top_p=0.9),
    Sampling(top_p=0.5, temperature=0.7),
    Sampling(top_p=0.999, temperature=2.0),
    Sampling(top_k=40),
    Sampling(top_k=40, top_p=0.8),
    Sampling(min_p=0.05),
    Sampling(min_p=0.001, top_p=0.95, top_k=1000),
]


@pytest.mark.parametrize("sampling", RESTRICTED)
@pytest.mark.parametrize("largest", [1, 64, 1024, 10000])
def test_support_is_the_one_of_sorting(sampling: Sampling, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "LARGEST", largest)
    logits = make_logits() * torch.tensor([0.3, 0.6, 1.0, 2.0])[:, None]  # not all of which need the whole vocabulary
    expected = sorted_support(logits, sampling)
    assert expected.sum() < expected.numel()
    scaled = logits / sampling.temperature
    weights = drawing._restrict((scaled - scaled.amax(-1, keepdim=True)).exp(), sampling)
    assert torch.equal(weights > 0, expected)


@pytest.mark.parametrize("largest", [1, 3, 1024])
def test_equally_probable_tokens_are_in_or_out_together(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "LARGEST", largest)
    assert drawn(Sampling(top_p=0.5), [0.1, 0.2, 0.2, 0.1, 0.2, 0.2]).keys() == {1, 2, 4, 5}
    assert drawn(Sampling(top_p=0.85), [0.1, 0.2, 0.2, 0.1, 0.2, 0.2]).keys() == {0, 1, 2, 3, 4, 5}
    assert drawn(Sampling(top_p=0.3), [0.1, 0.4, 0.4, 0.1]).keys() == {1, 2}


@pytest.mark.parametrize("size", [drawing.BLOCK * 4, drawing.BLOCK * 4 + 1, 5000, drawing.BLOCK * 40])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5), Sampling(top_p=0.9)])
def test_draws_invert_the_cumulative_distribution(size: int, sampling: Sampling) -> None:
    logits = make_logits(1, size)
    noise = torch.rand(3000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens, scores = sample(logits.expand(len(noise), -1), sampling, noise)
    allowed = sorted_support(logits, sampling)[0]
    probabilities = (logits[0].double() / sampling.temperature).where(allowed, -torch.inf).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    assert (cumulative[tokens] > noise - 1e-5).all()
    assert (cumulative[tokens] - probabilities[tokens] < noise + 1e-5).all()
    torch.testing.assert_close(scores.double(), probabilities[tokens].log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53, 1.0])  # the last one by rounding
def test_ends_of_the_noise_draw_possible_tokens(size: int, noise: float) -> None:
    logits = torch.full((1, size), -torch.inf)
    logits[0, [1, size // 2]] = torch.tensor([0.3, -0.2])
    tokens, scores = sample(logits, Sampling(), torch.tensor([noise], dtype=torch.float64))
    assert tokens.item() in {1, size // 2}
    assert scores.isfinite().all()


def test_draws_from_a_large_vocabulary_follow_its_probabilities() -> None:
    logits = make_logits(1, 2000, 4.0)
    noise = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tokens, _ = sample(logits.expand(len(noise), -1), Sampling(), noise)
    probabilities = {(token,): share for token, share in enumerate(logits[0].softmax(-1).tolist())}
    statistic, critical = chi_square(Counter((token,) for token in tokens.tolist()), probabilities)
    assert statistic < critical
    hotter = {(token,): share for token, share in enumerate((logits[0] / 1.1).softmax(-1).tolist())}
    statistic, critical = chi_square(Counter((token,) for token in tokens.tolist()), hotter)
    assert statistic > critical


# Of given tokens


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.6), GREEDY, *RESTRICTED])
def test_log_probabilities_are_those_that_draws_come_with(sampling: Sampling) -> None:
    logits = make_logits(64)
    noise = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tokens, scores = sample(logits, sampling, noise)
    torch.testing.assert_close(log_probabilities(logits, sampling, tokens), scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampling", RESTRICTED)
def test_excluded_tokens_have_no_probability_and_the_others_all_of_it(sampling: Sampling) -> None:
    logits = make_logits(2, 2000)
    allowed = sorted_support(logits, sampling)
    scores = torch.stack([log_probabilities(row.expand(2000, -1), sampling, torch.arange(2000)) for row in logits])
    assert torch.equal(scores > -torch.inf, allowed)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2), rtol=1e-4, atol=0)
