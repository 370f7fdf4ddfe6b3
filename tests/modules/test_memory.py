"""What a step needs for its loss alone is gone when the backward pass begins."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from transformers import DynamicCache

from lightning_sdft.losses import ForwardKL, JensenShannon, ReverseKL
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.modules import distillation as distillation_module
from lightning_sdft.teacher import CopiedTeacher, LiveTeacher
from tests.conftest import VOCABULARY
from tests.modules.conftest import METHODS


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What a cycle holds stays, as it does on a GPU until the collector happens to run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class BeforeBackward(Callback):
    """Asks at each backward pass."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.ask = ask
        self.answers: list[Any] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.answers.append(self.ask())


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("teacher", [CopiedTeacher(), LiveTeacher()])
@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL(), JensenShannon(0.3)])
def test_teacher_and_caches_are_gone_before_the_backward_pass(
    divergence: Any,
    teacher: Any,
    words_module: Callable[..., SDFTModule],
    words_data: Any,
    make_trainer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden: list[weakref.ref[Tensor]] = []
    caches: list[weakref.ref[DynamicCache]] = []
    loss, create = distillation_module.distillation_loss, DynamicCache.__init__

    def recorded(student_hidden: Tensor, student_head: Any, teacher_hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        hidden.append(weakref.ref(teacher_hidden))
        return loss(student_hidden, student_head, teacher_hidden, *args, **kwargs)

    def created(self: DynamicCache, *args: Any, **kwargs: Any) -> None:
        caches.append(weakref.ref(self))
        create(self, *args, **kwargs)

    monkeypatch.setattr(distillation_module, "distillation_loss", recorded)
    monkeypatch.setattr(DynamicCache, "__init__", created)
    alive = BeforeBackward(lambda: [reference() is not None for reference in (*hidden, *caches)])
    module = words_module(SDFTModule, divergence=divergence, teacher=teacher)
    make_trainer(callbacks=[alive], max_steps=2).fit(module, datamodule=words_data())
    assert len(alive.answers) == len(hidden) == 4
    assert len(caches) >= 2
    assert not any(any(answer) for answer in alive.answers)


def logits_alive() -> list[Tensor]:
    """Tensors with a column per token of the vocabulary that Python knows of."""
    known = [each for each in gc.get_objects() if type(each) is Tensor and each.dim() > 1]
    return [tensor for tensor in known if tensor.shape[-1] == len(VOCABULARY)]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("method", METHODS)
def test_no_logits_are_kept_for_the_backward_pass(
    method: type[CausalLMModule], words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    saved: list[tuple[int, ...]] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    before = len(logits_alive())
    alive = BeforeBackward(lambda: len(logits_alive()) - before)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        make_trainer(callbacks=[alive], max_steps=1).fit(words_module(method), datamodule=words_data())
    assert alive.answers == [0, 0]
    assert saved
    assert not [shape for shape in saved if len(shape) > 1 and shape[-1] == len(VOCABULARY)]
