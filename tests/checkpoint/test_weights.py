"""Weights that do not fit; tests/commands/test_refusals.py has real checkpoints of other models and teachers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_sdft.checkpoint import fitting
from lightning_sdft.errors import CheckpointError


def test_each_kind_is_counted_and_its_first_weight_named() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "extra": torch.zeros(1), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error, fitting(state, module, "a.ckpt"):
        module.load_state_dict(state)
    assert "the weights in the checkpoint 'a.ckpt' are not those of the models of this run" in str(error.value)
    for part in ("1 have another shape (the first is 'weight')", "1 are missing (the first is 'bias')"):
        assert part in str(error.value)
    assert "2 have no place (the first is 'extra'); set model and teacher as they were" in str(error.value)


def test_weights_that_fit_are_loaded_and_other_errors_stay() -> None:
    module = nn.Linear(2, 3)
    with fitting(module.state_dict(), module, None):
        module.load_state_dict(module.state_dict())
    with pytest.raises(RuntimeError, match=r"^other$"), fitting(module.state_dict(), module, None):
        raise RuntimeError("other")
