from __future__ import annotations

import pytest
import torch

from lightning_sdft.policy.precision import default_precision


def test_new_numbers_are_in_the_precision_until_the_end() -> None:
    with default_precision(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        with default_precision(torch.bfloat16):
            assert torch.zeros(1).dtype == torch.bfloat16
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32


def test_former_precision_returns_behind_an_error() -> None:
    with pytest.raises(ValueError, match="told"), default_precision(torch.float64):
        raise ValueError("told")
    assert torch.get_default_dtype() == torch.float32
