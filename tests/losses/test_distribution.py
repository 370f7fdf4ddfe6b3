from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Distribution
from lightning_sdft.losses.distribution import floored_log


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_log_softmax(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(9, 1000, dtype=dtype) + 5
    result = Distribution.of(logits.clone())
    torch.testing.assert_close(result.probabilities, logits.softmax(-1))
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(result.log_probabilities, exact.to(dtype))
    assert torch.equal(result.best, logits.argmax(-1))
    torch.testing.assert_close(result.entropy().double(), -(exact.exp() * exact).sum(-1), rtol=1e-6, atol=1e-6)


def test_log_probabilities_take_the_place_of_the_logits() -> None:
    logits = torch.randn(2, 5)
    assert Distribution.of(logits).log_probabilities.data_ptr() == logits.data_ptr()


def log(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def test_kl_by_hand() -> None:
    # 3/4 log(3/2) + 1/4 log(1/2)
    kl = Distribution.of(log(0.75, 0.25)).kl(log(0.5, 0.5))
    assert kl.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_impossible_tokens() -> None:
    both = Distribution.of(log(0.5, 0.5, 0.0))
    assert both.log_probabilities.isfinite().all()
    assert both.entropy().item() == pytest.approx(math.log(2))
    assert both.kl(both.log_probabilities).item() == 0
    assert both.kl(floored_log(torch.tensor([[1.0, 0.0, 0.0]]))).item() == math.inf
