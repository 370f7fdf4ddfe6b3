"""L2-SP: the gradient of its penalty, what it does to a run, and that a run goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.callbacks import L2SP
from lightning_sdft.errors import SettingError
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from tests.modules.conftest import double, make_trainer, words_data, words_module
from tests.modules.test_resume import check_resume

__all__ = ["double", "make_trainer", "words_data", "words_module"]


class Look(Callback):
    """Keeps weights and gradients at the last optimizer step, and the weights at the start."""

    def __init__(self) -> None:
        self.start: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = [each.detach().clone() for each in pl_module.policy.parameters()]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = list(pl_module.policy.parameters())
        self.weights = [each.detach().clone() for each in parameters]
        self.gradients = [each.grad.clone() for each in parameters]


@pytest.mark.usefixtures("double")
def test_gradient_is_that_of_the_penalty(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    before, after = Look(), Look()
    trainer = make_trainer(callbacks=[before, L2SP(0.3), after], max_steps=3, precision="64-true")
    trainer.fit(words_module(SFTModule), datamodule=words_data())
    moved = [each.clone().requires_grad_() for each in after.weights]
    penalty = sum(0.3 / 2 * (one - start).square().sum() for one, start in zip(moved, before.start, strict=True))
    assert isinstance(penalty, Tensor)
    assert penalty.dtype == torch.float64
    assert penalty > 1e-6
    expected = torch.autograd.grad(penalty, moved)
    for with_it, without, own in zip(after.gradients, before.gradients, expected, strict=True):
        torch.testing.assert_close(with_it - without, own, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [SFTModule, SDFTModule])
def test_it_holds_the_weights_near_their_start(
    method: type[CausalLMModule], words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    distances = []
    for weight in (None, 0.1, 10.0):
        look = Look()
        own = [] if weight is None else [L2SP(weight)]
        make_trainer(callbacks=[look, *own], max_steps=12).fit(words_module(method), datamodule=words_data())
        pairs = zip(look.weights, look.start, strict=True)
        distances.append(sum((one - other).square().sum() for one, other in pairs))
    assert distances[2] < 0.5 * distances[0]
    assert distances[2] < distances[1] < distances[0]


def test_resumed_run_equals_the_uninterrupted_one(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(SFTModule, 0, *fixtures, beside=lambda: [L2SP(0.1)])


def test_adapter_is_refused(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    with pytest.raises(SettingError, match="L2SP holds weights that lora does not change; leave it out"):
        make_trainer(callbacks=[L2SP()]).fit(words_module(SFTModule, lora=LoRA(rank=2)), datamodule=words_data())
