"""What the prompts of an optimizer step begin with is read once for its micro-batches, and training stays the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.modules import (
    CausalLMModule,
    DFTModule,
    Retention,
    SDFTModule,
    SequenceDistillationModule,
    SFTModule,
)
from lightning_sdft.modules import shared_prefixes as module_under_test
from lightning_sdft.modules.timing import PhaseClock
from lightning_sdft.policy import LoRA, Policy, prefix
from lightning_sdft.records import Example
from lightning_sdft.teacher import EMATeacher, LiveTeacher, Teacher, TrustRegionTeacher
from tests.modules.conftest import question, ready
from tests.modules.test_resume import check_resume

SYSTEM = "w6 w7 w8 w9 w10 w11 w12"


def asked(index: int) -> Example:
    example = question(index)
    return Example(example.id, [{"role": "user", "content": f"{SYSTEM} {example.prompt[0]['content']}"}], "w26 w27 w28")


EXAMPLES = [asked(index) for index in range(16)]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the few tokens of these tests are worth a prefix."""
    monkeypatch.setattr(prefix, "SPARED", 0)


class Shapes(Callback):
    """Keeps what the student reads with gradient, and which of it stands behind a prefix."""

    def __init__(self) -> None:
        self.behind: list[tuple[int, ...]] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def look(module: object, args: object, inputs: dict[str, Any]) -> None:
            cache = inputs.get("past_key_values", inputs.get("cache"))
            if torch.is_grad_enabled() and cache is not None and cache.get_seq_length():
                self.behind.append(tuple(inputs["input_ids"].shape))

        pl_module.policy.model.base_model.register_forward_pre_hook(look, with_kwargs=True)


ONE_BY_ONE = {"batch_size": 4, "micro_batch_size": 1}

SETTINGS: dict[str, tuple[type[CausalLMModule], dict[str, Any]]] = {
    "SFT": (SFTModule, {}),
    "DFT": (DFTModule, {}),
    "SDFT": (SDFTModule, {"teacher": LiveTeacher()}),
    "SDFT, generations": (SDFTModule, {"teacher": LiveTeacher(), "generations": 2}),
    "SDFT, retention": (SDFTModule, {"teacher": LiveTeacher(), "retention": Retention(prompts=4)}),
    "SDFT, trust region": (SDFTModule, {"teacher": TrustRegionTeacher()}),
    "sequences": (SequenceDistillationModule, {"teacher_template": "w50 {prompt} w51"}),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_that_without_a_prefix(
    name: str, size: int, words_module: Any, words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, arguments = SETTINGS[name]
    found: list[list[Tensor]] = []
    for shared in (True, False):
        monkeypatch.setattr(Policy, "reads_prefixes", shared)
        seed_everything(0)
        module, seen = words_module(method, learning_rate=1e-3, **arguments), Shapes()
        options = {"precision": "64-true", "max_steps": 3, "gradient_clip_val": 1.0, "callbacks": [seen]}
        trainer = make_trainer(**options, accumulate_grad_batches=4 // size)
        trainer.fit(module, datamodule=words_data(EXAMPLES, batch_size=4, micro_batch_size=size))
        found.append([each.detach() for each in module.policy.parameters()])
        assert len(seen.behind) == (3 * 4 // size if shared else 0)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_resumed_run_equals_the_uninterrupted_one(
    lora: LoRA | None, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    seen = Shapes()
    given = (0, words_module, lambda **data: words_data(EXAMPLES, **data), make_trainer, tmp_path)
    check_resume(SDFTModule, *given, beside=lambda: [seen], lora=lora)
    assert seen.behind


def test_the_teacher_reads_its_prefix_anew_in_each_step(
    words_module: Any, words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would go on with keys and values of weights that it no longer has."""
    found: list[list[Tensor]] = []
    for shared in (True, False):
        monkeypatch.setattr(Policy, "reads_prefixes", shared)
        seed_everything(0)
        module = words_module(SDFTModule)
        trainer = make_trainer(max_steps=3, accumulate_grad_batches=4, callbacks=[EMATeacher(0.9)])
        trainer.fit(module, datamodule=words_data(EXAMPLES, **ONE_BY_ONE))
        found.append([each.detach() for each in module.policy.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_what_a_prefix_takes_counts_as_the_student_s_the_teacher_s_and_the_backward_pass_s(
    words_module: Any, words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = {(Policy, "share_prefix"): 0.2, (Teacher, "share_prefix"): 0.4, (prefix.Prefix, "backward"): 0.8}
    for (owner, name), seconds in delays.items():
        monkeypatch.setattr(owner, name, late(getattr(owner, name), seconds))
    trainer = make_trainer(max_steps=1, log_every_n_steps=1, accumulate_grad_batches=4)
    trainer.fit(words_module(SDFTModule), datamodule=words_data(EXAMPLES, **ONE_BY_ONE))
    times = {name: float(trainer.logged_metrics[f"time/{name}"]) for name in ("student", "teacher", "backward")}
    assert times["student"] >= 0.2
    assert times["teacher"] >= 0.4 + 0.2  # it lets its policy read
    assert times["backward"] >= 0.8


def late(method: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def waiting(*arguments: Any) -> Any:
        time.sleep(seconds)
        return method(*arguments)

    return waiting


class Case:
    """A filled group of four micro-batches, or two, and its models."""

    def __init__(self, module: Any, size: int = 1) -> None:
        self.module = ready(module)
        self.group = MicroBatch.cut(EXAMPLES[:4], size)[0].group
        self.module.fill(self.group)

    def begin(self) -> module_under_test.SharedPrefixes:
        prefixes = module_under_test.SharedPrefixes(PhaseClock())
        prefixes.begin(self.group, self.module.policy, self.module.teacher)
        return prefixes


def test_student_and_teacher_have_prefixes_of_their_own(words_module: Callable[..., Any]) -> None:
    case = Case(words_module(SDFTModule))
    prefixes = case.begin()
    assert prefixes.student is not None
    assert prefixes.teacher is not None
    assert len(prefixes.teacher) == len(prefixes.student) + 1  # w50 stands before the prompt
    assert prefixes.student.layers[0].keys.requires_grad
    assert not prefixes.teacher.layers[0].keys.requires_grad


def test_a_loop_without_a_trainer_shares_nothing(words_module: Callable[..., Any]) -> None:
    """It might not take the gradient back through the prefix."""
    prefixes = Case(words_module(SDFTModule)).module.prefixes
    assert prefixes.student is None
    assert prefixes.teacher is None


class Overridden(SDFTModule):
    """A module with a hook of its own, or without the callbacks that hold a run to its settings."""

    plain = False

    def on_after_backward(self) -> None:
        """Leave out what the base class does."""

    def configure_callbacks(self) -> Any:
        return [] if self.plain else super().configure_callbacks()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("plain", [False, True])
def test_hooks_that_are_overridden_lose_no_gradients(
    plain: bool, words_module: Any, words_data: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Overridden, "plain", plain)
    found: list[list[Tensor]] = []
    for shared in (True, False):
        monkeypatch.setattr(Policy, "reads_prefixes", shared)
        seed_everything(0)
        module, seen = words_module(Overridden, learning_rate=1e-3, teacher=LiveTeacher()), Shapes()
        trainer = make_trainer(precision="64-true", max_steps=1, accumulate_grad_batches=4, callbacks=[seen])
        trainer.fit(module, datamodule=words_data(EXAMPLES, **ONE_BY_ONE))
        found.append([each.detach() for each in module.policy.parameters()])
        assert len(seen.behind) == (4 if shared and not plain else 0)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_gradient_checkpointing_leaves_the_teacher_its_prefix(
    words_module: Any, words_data: Any, make_trainer: Any
) -> None:
    module, begun = words_module(SDFTModule, gradient_checkpointing=True), []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            begun.append((pl_module.prefixes.student, pl_module.prefixes.teacher))

    trainer = make_trainer(max_steps=1, accumulate_grad_batches=4, callbacks=[Look()])
    trainer.fit(module, datamodule=words_data(EXAMPLES, **ONE_BY_ONE))
    assert begun[0][0] is None
    assert begun[0][1] is not None
    assert begun[-1] == (None, None)


def test_several_processes_read_the_last_micro_batch_whole(
    words_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(words_module(SDFTModule))
    monkeypatch.setattr(module_under_test, "process_count", lambda: 2)
    prefixes = case.begin()
    for left in (3, 2, 1, 0):
        assert prefixes.teacher is not None
        assert (prefixes.student is None) == (left == 0)
        prefixes.after_backward()
    assert prefixes.teacher is None


def test_several_processes_with_two_micro_batches_share_the_teachers_prefix_alone(
    words_module: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_under_test, "process_count", lambda: 2)
    prefixes = Case(words_module(SDFTModule), size=2).begin()
    assert prefixes.student is None
    assert prefixes.teacher is not None


def test_packed_sequences_have_no_prefix(words_module: Any, words_data: Any, make_trainer: Any) -> None:
    module = words_module(SFTModule, packing=True)
    make_trainer(max_steps=1).fit(module, datamodule=words_data(EXAMPLES))
    assert module.prefixes.student is None


def test_prefixes_are_let_go_behind_the_last_micro_batch(words_module: Callable[..., Any]) -> None:
    prefixes = Case(words_module(SDFTModule)).begin()
    for _ in range(3):
        prefixes.after_backward()
        assert prefixes.student is not None
    prefixes.after_backward()
    assert prefixes.student is None
    assert prefixes.teacher is None


@pytest.mark.parametrize("driven", [True, False])
def test_a_group_does_not_get_the_prefixes_of_an_interrupted_one(
    driven: bool, words_module: Callable[..., Any]
) -> None:
    case = Case(words_module(SDFTModule))
    prefixes = case.begin()
    assert prefixes.student is not None
    group = MicroBatch.of(EXAMPLES[:4]).group
    case.module.fill(group)
    prefixes.begin(group, *((case.module.policy, case.module.teacher) if driven else (None, None)))
    assert prefixes.student is None
    assert prefixes.teacher is None
