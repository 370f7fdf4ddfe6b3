from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_sdft.losses import JensenShannon, ReverseKL
from lightning_sdft.modules import DistillationModule, TeacherShare
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import FORMS, CopiedTeacher, EMATeacher, LiveTeacher
from tests.conftest import make_model, make_tokenizer
from tests.launch import in_processes
from tests.modules.conftest import EXAMPLES, SHOWN, TEACHER_PROMPTS, ready
from tests.modules.dense import (
    check,
    reverse_kl,
    step,
    token_divergences,
    weigh,
)


def weights_of(policy: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone().float() for name, value in policy.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_copied_teacher_is_frozen_in_eval_mode_and_gets_no_gradient(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, datamodule=words_data())
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    assert all(part.training for part in module.policy.modules())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert not {id(p) for p in module.teacher.parameters()} & {id(p) for p in module.policy.parameters()}


def test_live_teacher_is_the_student_and_no_gradient_flows_through_it(
    words_module: Callable[..., DistillationModule],
) -> None:
    module = ready(words_module(DistillationModule, **SHOWN, teacher=LiveTeacher(), divergence=ReverseKL()))
    assert module.teacher.policy is module.policy
    assert not [name for name in module.state_dict() if name.startswith("teacher")]
    torch.manual_seed(0)
    loss, group = step(module, EXAMPLES)
    assert all(part.training for part in module.policy.modules())
    assert all(parameter.requires_grad for parameter in module.policy.parameters())
    check(module.policy, loss, weigh(token_divergences(module, group, reverse_kl, TEACHER_PROMPTS), 0, "sequence"))


def test_live_teacher_follows_the_student(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, teacher=LiveTeacher())
    make_trainer(max_steps=2).fit(module, datamodule=words_data())
    assert module.teacher.policy is module.policy
    assert module.teacher.drift(module.policy) == 0


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Another model of the same vocabulary."""
    make_model("gpt2", seed=5).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_teacher_can_start_from_another_model(
    other_folder: Path, words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN, teacher=CopiedTeacher(model=str(other_folder)))
    make_trainer(max_steps=2).fit(module, datamodule=words_data())
    expected = make_model("gpt2", seed=5).state_dict()
    ours = module.teacher.policy.model.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_memory_for_a_whole_copy_is_refused_where_the_teacher_is_an_adapter(
    words_module: Callable[..., DistillationModule],
) -> None:
    message = r"with lora the teacher is an adapter, and CopiedTeacher\(memory=compensated\) .* leave memory out"
    with pytest.raises(ValueError, match=message):
        words_module(DistillationModule, teacher=CopiedTeacher("compensated"), lora=LoRA())


def test_there_must_be_such_a_memory() -> None:
    with pytest.raises(ValueError, match="memory=bf16 of a CopiedTeacher is none of float32, compensated, offload"):
        CopiedTeacher("bf16")


def test_offloaded_teacher_writes_no_rollouts(words_module: Callable[..., DistillationModule]) -> None:
    message = r"would send the whole teacher of CopiedTeacher\(memory=offload\) to the device for every token"
    for arguments in ({"rollout_source": "teacher"}, {"teacher_share": TeacherShare()}):
        with pytest.raises(ValueError, match=message):
            words_module(DistillationModule, **arguments, teacher=CopiedTeacher("offload"))


@pytest.mark.parametrize("memory", FORMS)
def test_every_form_can_start_from_another_model_and_write_what_it_can(
    memory: Any, other_folder: Path, words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    source = "student" if memory == "offload" else "teacher"
    arguments = {"teacher": CopiedTeacher(memory, str(other_folder)), "rollout_source": source}
    module = words_module(DistillationModule, **SHOWN, **arguments)
    make_trainer(max_steps=2, precision="bf16-true").fit(module, datamodule=words_data())
    assert type(module.teacher) is FORMS[memory]
    expected = make_model("gpt2", seed=5).bfloat16().parameters()
    assert all(torch.equal(ours, each.float()) for ours, each in zip(module.teacher.weights(), expected, strict=True))


def two_offloaded_teachers(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    torch.manual_seed(int(os.environ["RANK"]))  # a student of its own, until DDP sends round that of the first process
    module = words_module(DistillationModule, **SHOWN, pretrained=False, teacher=CopiedTeacher("offload"))
    start = StartOfTraining()
    trainer = make_trainer(callbacks=[start, EMATeacher(0.3)], max_steps=1, devices=2, strategy="ddp")
    trainer.fit(module, datamodule=words_data(micro_batch_size=1))
    assert same(start.teacher, start.student)
    for weight in module.teacher.weights():
        first, second = (torch.empty_like(weight) for _ in range(2))
        torch.distributed.all_gather([first, second], weight.detach())
        assert torch.equal(first, second)
    assert not same(weights_of(module.teacher.policy), start.teacher)


def test_offloaded_teachers_of_all_processes_are_alike(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    in_processes(2, two_offloaded_teachers, words_module, words_data, make_trainer)


class StartOfTraining(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.student, self.teacher = weights_of(pl_module.policy), weights_of(pl_module.teacher.policy)


def test_teacher_starts_from_the_student_as_it_is_when_fit_starts(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    module.configure_model()
    before = weights_of(module.policy)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(0.1)
    first = StartOfTraining()
    make_trainer(max_steps=2, callbacks=[first]).fit(module, datamodule=words_data())
    assert same(first.teacher, first.student)
    assert not same(first.teacher, before)
    assert same(weights_of(module.teacher.policy), first.teacher)  # it is frozen
    trained = weights_of(module.policy)
    assert not same(trained, first.student)

    second = StartOfTraining()  # the next stage of continual learning
    make_trainer(max_steps=2, callbacks=[second]).fit(module, datamodule=words_data())
    assert same(second.teacher, trained)


def test_resumed_run_keeps_the_teacher_of_the_checkpoint(
    words_module: Callable[..., DistillationModule], words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module = words_module(DistillationModule, **SHOWN)
    trainer = make_trainer(max_steps=2, callbacks=[EMATeacher(0.3)])
    trainer.fit(module, datamodule=words_data())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    student, teacher = weights_of(module.policy), weights_of(module.teacher.policy)
    assert not same(student, teacher)
    start = StartOfTraining()
    make_trainer(max_steps=3, callbacks=[EMATeacher(0.3), start]).fit(
        words_module(DistillationModule, **SHOWN), datamodule=words_data(), ckpt_path=tmp_path / "two.ckpt"
    )
    assert same(start.student, student)
    assert same(start.teacher, teacher)


@pytest.mark.parametrize(
    ("arguments", "callbacks", "times"),
    [({}, [], 1), ({}, [EMATeacher()], 0), ({"teacher": LiveTeacher()}, [], 0)],
)
def test_says_once_that_a_copied_teacher_without_callback_is_frozen(
    arguments: dict[str, Any],
    callbacks: list[Callback],
    times: int,
    words_module: Callable[..., DistillationModule],
    words_data: Any,
    make_trainer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        trainer = make_trainer(max_steps=2, callbacks=callbacks)
        trainer.fit(words_module(DistillationModule, **SHOWN, **arguments), datamodule=words_data())
    assert caplog.text.count("the teacher stays frozen") == times


def test_unknown_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beta=1.0 must be .* \(0, 1\); use ForwardKL .* ReverseKL instead of 1"):
        JensenShannon(1.0)


def test_drift_is_the_relative_distance(words_module: Callable[..., DistillationModule]) -> None:
    module = words_module(DistillationModule)
    module.configure_model()
    assert module.teacher.drift(module.policy) == 0
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.mul_(2)
    assert math.isclose(module.teacher.drift(module.policy), 0.5, rel_tol=1e-6)
