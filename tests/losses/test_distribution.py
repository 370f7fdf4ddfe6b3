from __future__ import annotations

import math

import pytest
import torch

from lightning_sdft.losses import Distribution
from lightning_sdft.losses.distribution import FLOOR


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_log_softmax(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(9, 1000, dtype=dtype) + 5
    result = Distribution.of(logits.clone())
    torch.testing.assert_close(result.probabilities, logits.softmax(-1))
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(result.log_probabilities, exact.to(dtype))
    entropy = -(exact.exp() * exact).sum(-1)
    torch.testing.assert_close(result.entropy().double(), entropy, rtol=1e-6, atol=1e-6 * (1 + scale))


def test_normalizer_and_agreement() -> None:
    logits = torch.randn(200, 9)
    result, other = Distribution.of(logits), Distribution.of(logits + torch.randn(200, 9))
    torch.testing.assert_close(result.normalizer.squeeze(-1), logits.logsumexp(-1))
    assert torch.equal(result.agrees(other), logits.argmax(-1) == other.logits.argmax(-1))
    assert 0 < result.agrees(other).sum() < 200


def distribution(*probabilities: float) -> Distribution:
    return Distribution.of(torch.tensor([probabilities]).log().clamp(min=FLOOR))


def test_mean_log_ratio_by_hand() -> None:
    # 3/4 log(3/2) + 1/4 log(1/2), whatever is added to the logits
    left, right = distribution(0.75, 0.25), Distribution.of(torch.tensor([[7.0, 7.0]]))
    assert left.mean(left.log_ratio(right)).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_impossible_tokens() -> None:
    both = distribution(0.5, 0.5, 0.0)
    assert both.entropy().item() == pytest.approx(math.log(2))
    assert both.mean(both.log_ratio(both)).item() == 0
    assert both.mean(both.log_ratio(distribution(1.0, 0.0, 0.0))).item() == math.inf
