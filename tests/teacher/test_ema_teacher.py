from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy.lora import STUDENT, TEACHER, LoRA, adapter_weights
from lightning_sdft.teacher import EMATeacher


class Weights(Callback):
    """Keeps student and teacher after each micro-batch, in front of the update that follows the optimizer step."""

    def __init__(self) -> None:
        self.start: Tensor = torch.empty(0)
        self.students: list[Tensor] = []
        self.teachers: list[Tensor] = []
        self.steps: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = teacher_weights(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.teachers.append(teacher_weights(pl_module))  # as the last micro-batch left it

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.students.append(student_weights(pl_module))
        self.steps.append(trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.teachers.append(teacher_weights(pl_module))


def teacher_weights(module: Any) -> Tensor:
    return flat(module.teacher.parameters() if module.lora is None else adapter(module, TEACHER))


def student_weights(module: Any) -> Tensor:
    return flat(module.policy.parameters() if module.lora is None else adapter(module, STUDENT))


def adapter(module: Any, name: str) -> Iterable[Tensor]:
    return adapter_weights(module.policy.model, name).values()


def flat(weights: Iterable[Tensor]) -> Tensor:
    return torch.cat([weight.detach().double().flatten() for weight in weights])


ADAPTER = LoRA(rank=2, modules_to_save=["norm"])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_teacher_follows_its_formula_once_per_optimizer_step(
    every: int, precision: Any, words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    watch, ema = Weights(), EMATeacher(teacher_rate=0.05, every_n_steps=every)
    trainer = make_trainer(callbacks=[watch, ema], accumulate_grad_batches=4, max_steps=9, precision=precision)
    trainer.fit(words_module(SDFTModule), datamodule=words_data(batch_size=8, micro_batch_size=2))
    assert watch.steps == [index // 4 for index in range(1, 37)]

    expected, updates = watch.start, 0
    for index, student in enumerate(watch.students):
        step, stepped = divmod(index + 1, 4)
        if stepped == 0 and step % every == 0:
            expected = 0.05 * student + 0.95 * expected
            updates += 1
        torch.testing.assert_close(watch.teachers[index + 1], expected, rtol=1e-6, atol=1e-6)
    assert ema.updates == updates == 9 // every
    assert (expected - watch.start).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("precision", "lora"), [("32-true", None), ("bf16-true", None), ("bf16-mixed", ADAPTER), ("bf16-true", ADAPTER)]
)
def test_hundred_updates_follow_the_formula(
    precision: Any,
    lora: LoRA | None,
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
) -> None:
    watch = Weights()
    options = {"accumulate_grad_batches": 1, "max_steps": 100, "max_epochs": 100, "precision": precision}
    trainer = make_trainer(callbacks=[watch, EMATeacher(teacher_rate=0.01)], **options)
    module = words_module(SDFTModule, max_completion_tokens=2, lora=lora)
    trainer.fit(module, datamodule=words_data(batch_size=2, micro_batch_size=2))
    expected = watch.start
    for student in watch.students:
        expected = 0.01 * student + 0.99 * expected
    torch.testing.assert_close(watch.teachers[-1], expected, rtol=1e-6, atol=1e-6)
    assert (expected - watch.start).abs().max() > 1e-3


def test_product_of_the_averaged_factors_follows_the_average_of_products(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    """In TRL 1.16.0 both factors start at 0: after 10 steps the teacher's product would be at 3% of the student's."""

    def product(module: Any, name: str) -> Tensor:
        down, up = list(adapter(module, name))[:2]
        return (up @ down).detach().double()

    class Products(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.average = product(pl_module, STUDENT)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            self.average = 0.02 * product(pl_module, STUDENT) + 0.98 * self.average

    lora, products = LoRA(rank=4, target_modules=["q_proj", "v_proj"]), Products()
    module = words_module(SDFTModule, learning_rate=1e-3, lora=lora)
    trainer = make_trainer(callbacks=[products, EMATeacher(0.02)], max_steps=10, accumulate_grad_batches=1)
    trainer.fit(module, datamodule=words_data(batch_size=4, micro_batch_size=4))
    ours = product(module, TEACHER)
    assert 0.1 < ours.norm() / product(module, STUDENT).norm() < 0.2
    assert (ours - products.average).norm() < 0.02 * products.average.norm()


def test_rate_one_copies_the_student(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(SDFTModule)
    make_trainer(callbacks=[EMATeacher(teacher_rate=1)], max_steps=2).fit(module, datamodule=words_data())
    assert torch.equal(teacher_weights(module), student_weights(module))


def test_a_second_fit_and_a_resumed_one_update_once_per_step(
    words_module: Callable[..., CausalLMModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module, ema = words_module(SDFTModule), EMATeacher()
    for total in (3, 6):
        trainer = make_trainer(callbacks=[ema], max_steps=3)
        trainer.fit(module, datamodule=words_data())
        assert ema.updates == total
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    resumed = EMATeacher()
    make_trainer(callbacks=[resumed], max_steps=4).fit(
        words_module(SDFTModule), datamodule=words_data(), ckpt_path=tmp_path / "six.ckpt"
    )
    assert resumed.updates == 7


def test_another_rate_takes_effect_in_a_resumed_run_and_is_said(
    words_module: Callable[..., CausalLMModule],
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer(callbacks=[EMATeacher(0.1)], max_steps=1)
    trainer.fit(words_module(SDFTModule), datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    with caplog.at_level(logging.INFO):
        for rate in (0.1, 1.0):
            assert "teacher_rate" not in caplog.text
            module = words_module(SDFTModule)
            make_trainer(callbacks=[EMATeacher(rate)], max_steps=2).fit(
                module, datamodule=words_data(), ckpt_path=tmp_path / "one.ckpt"
            )
    assert "goes on with other settings than before: teacher_rate 0.1 -> 1.0." in caplog.text
    assert module.teacher.drift(module.policy) == 0


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan")])
def test_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"teacher_rate={rate} must be .* \(0, 1\]; .* leave EMATeacher out"):
        EMATeacher(teacher_rate=rate)
