from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import pytest
import torch

from lightning_sdft.grading.pass_at_k import pass_at_k, powers_of_two


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_is_the_share_of_ways_to_pick_k_responses_of_which_one_is_right(samples: int) -> None:
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        picks = list(itertools.combinations([True] * correct + [False] * (samples - correct), k))
        expected = sum(map(any, picks)) / len(picks)
        assert pass_at_k(torch.tensor([correct]), torch.tensor([samples]), k).item() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 7, 64, 128])
def test_is_exact_for_128_samples(k: int) -> None:
    correct = torch.arange(129)
    expected = [float(1 - Fraction(comb(128 - c, k), comb(128, k))) for c in range(129)]
    estimated = pass_at_k(correct, torch.full((129,), 128), k)
    torch.testing.assert_close(estimated, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    correct = (torch.rand(40000, 16, generator=generator) < 0.1).sum(dim=1)
    samples = torch.full((40000,), 16)
    assert pass_at_k(correct, samples, 8).mean().item() == pytest.approx(1 - 0.9**8, abs=0.005)
    assert (1 - (1 - correct / samples) ** 8).mean().item() < 1 - 0.9**8 - 0.02  # the estimate one would write first


def test_questions_may_have_different_numbers_of_samples() -> None:
    assert pass_at_k(torch.tensor([1, 1]), torch.tensor([2, 4]), 2).tolist() == [1.0, 0.5]


def test_fewer_samples_than_tries_are_refused() -> None:
    with pytest.raises(ValueError, match="pass@4 needs at least 4 responses to every question, one has 3"):
        pass_at_k(torch.tensor([1, 1]), torch.tensor([8, 3]), 4)


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (3, [1, 2]), (128, [1, 2, 4, 8, 16, 32, 64, 128])])
def test_powers_of_two(samples: int, expected: list[int]) -> None:
    assert powers_of_two(samples) == expected
