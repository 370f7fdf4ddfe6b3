from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_sdft.policy.inference import casting_once, evaluating


def test_evaluating_restores_the_mode_of_every_part() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    module[1].eval()
    modes = [part.training for part in module.modules()]
    assert len(set(modes)) == 2
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == modes


def test_evaluating_restores_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout())
    with pytest.raises(RuntimeError, match="inside"), evaluating(module):
        raise RuntimeError("inside")
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_are_those_of_autocast_and_are_gone_afterwards(dtype: torch.dtype) -> None:
    layer, inputs = nn.Linear(4, 4), torch.randn(2, 4)
    with torch.autocast("cpu", dtype, cache_enabled=False):
        with torch.no_grad(), casting_once(inputs.device):
            first = layer(inputs)
            with torch.no_grad():
                layer.weight.zero_()
            assert torch.equal(layer(inputs), first)  # by the weight that was cast before
        layer(inputs).sum().backward()
        assert not torch.equal(layer(inputs), first)
    assert first.dtype == dtype
    assert layer.weight.grad is not None


def test_without_autocast_nothing_is_cast() -> None:
    layer, inputs = nn.Linear(4, 4), torch.randn(2, 4)
    with torch.no_grad(), casting_once(inputs.device):
        assert layer(inputs).dtype == torch.float32
