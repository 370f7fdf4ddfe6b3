from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_sdft.modules import DFTModule, SFTModule
from tests.modules.dense import check, mean, step
from tests.modules.test_sft import EXAMPLES, target_log_probabilities


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_loss_and_gradient_equal_likelihood_times_its_own_probability(
    reduction: Any, words_module: Callable[..., DFTModule]
) -> None:
    module = words_module(DFTModule, reduction=reduction)
    module.configure_model()
    parts = [-part.exp().detach() * part for part in target_log_probabilities(module)]
    expected = torch.cat(parts).mean() if reduction == "token" else mean(part.mean() for part in parts)
    check(module.policy, step(module, EXAMPLES)[0], expected, 1e-6)


def test_logs_the_likelihood_that_its_loss_hides(words_module: Callable[..., SFTModule], words_data: Any) -> None:
    module = words_module(DFTModule)
    assert isinstance(module, SFTModule)
    module.configure_model()
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    step(module, EXAMPLES)
    nll = -torch.cat(target_log_probabilities(module)).mean().item()
    assert logged["train/nll"] == pytest.approx(nll, rel=1e-5)
    assert logged["train/loss"] < nll / 2
