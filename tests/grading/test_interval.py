from __future__ import annotations

import math

import pytest
import torch

from lightning_sdft.grading.interval import bootstrap


def test_interval_of_an_accuracy_is_the_quantile_of_the_binomial_distribution() -> None:
    correct, total = 30, 40
    chance = [math.comb(total, k) * 0.75**k * 0.25 ** (total - k) for k in range(total + 1)]
    below = [sum(chance[: k + 1]) for k in range(total + 1)]
    score = bootstrap([torch.tensor([1.0] * correct + [0.0] * (total - correct))], resamples=20000)
    assert score.value == 0.75
    assert score.low == pytest.approx(next(k for k in range(total) if below[k] >= 0.025) / total, abs=1 / total)
    assert score.high == pytest.approx(next(k for k in range(total) if below[k] >= 0.975) / total, abs=1 / total)


def test_interval_of_a_mean_is_about_two_standard_errors_wide_on_either_side() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(1))
    score = bootstrap([values])
    error = (values.std() / 20).item()
    assert score.value == pytest.approx(values.mean().item())
    assert score.value - score.low == pytest.approx(1.96 * error, rel=0.1)
    assert score.high - score.value == pytest.approx(1.96 * error, rel=0.1)


def test_sets_are_resampled_independently_of_each_other() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(1))
    one, four = bootstrap([values]), bootstrap([values] * 4)
    assert four.value == pytest.approx(one.value)
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.1)


def test_each_set_counts_the_same_whatever_its_size() -> None:
    assert bootstrap([torch.ones(1000), torch.zeros(10), torch.zeros(0)]).value == 0.5


def test_the_same_values_always_have_the_same_interval_and_no_other_draws_are_disturbed() -> None:
    values = torch.rand(50)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = bootstrap([values])
    assert torch.rand(1) == expected
    assert bootstrap([values]) == first
    assert bootstrap([values.flip(0)]) == first


def test_a_wider_level_is_a_wider_interval() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    narrow, wide = bootstrap([values], level=0.5), bootstrap([values], level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_nothing_has_no_mean() -> None:
    score = bootstrap([])
    assert all(math.isnan(value) for value in (score.value, score.low, score.high))
