"""The teacher of EMATeacher(reset_every=n) is, after every n-th step, the model that training started from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import CopiedTeacher, EMATeacher
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]

SEQUENCE = TokenSequence([2, 40, 8, 4, 3], [20, 21, 22])


class Distances(Callback):
    """How far the teacher's hidden states are from the base model's before each step, and the student's."""

    def __init__(self) -> None:
        self.teacher: list[float] = []
        self.student: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch.index == 0:
            self._note(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._note(pl_module)

    @torch.no_grad()
    def _note(self, module: Any) -> None:
        base = module.base_policy().hidden([SEQUENCE])
        self.teacher.append((module.teacher.hidden([SEQUENCE]) - base).norm().item())
        self.student.append((module.policy.hidden([SEQUENCE]) - base).norm().item())


@pytest.mark.parametrize(
    ("lora", "memory"),
    [
        (None, "float32"),
        (None, "compensated"),
        (None, "offload"),
        (LoRA(rank=2, modules_to_save=["norm"]), "float32"),
        (LoRA(rank=2, target_modules=["embed_tokens", "q_proj"]), "float32"),
    ],
)
def test_teacher_is_the_base_again_after_every_third_step_and_follows_between(
    lora: LoRA | None,
    memory: Any,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    distances, ema = Distances(), EMATeacher(0.5, reset_every=3)
    module = words_module(SDFTModule, lora=lora, teacher=CopiedTeacher(memory))
    make_trainer(callbacks=[distances, ema], max_steps=7).fit(module, datamodule=words_data())
    tolerance = 1e-5 if memory != "compensated" else 0.4  # it computes in bfloat16
    near = [distance <= tolerance for distance in distances.teacher]
    assert near == [True, False, False, True, False, False, True, False]
    assert min(distances.student[1:]) > 5 * tolerance
    assert ema.updates == 5
