"""Resume from a checkpoint in mid-epoch is bit-exact: weights of student and teacher, losses, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_sdft.checkpoint import exact_resume
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading import ExactMatch
from lightning_sdft.modules import (
    CausalLMModule,
    CPTModule,
    DFTModule,
    DistillationModule,
    SDFTModule,
    SDPOModule,
    SFTModule,
)
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, EMATeacher, TrustRegionTeacher
from tests.conftest import needs_gpu
from tests.modules.conftest import SHOWN, question

CHECKPOINT_STEP = 6  # an epoch has 4 steps, so this is in the middle of the second one
STEPS = 11
TOLD = ["{prompt}", " w50 {sibling} w51", " w52 {attempt} w53"]
ADAPTER: dict[str, Any] = {"pretrained": True, "lora": LoRA(rank=2, dropout=0.2, modules_to_save=["norm"])}


class Losses(Callback):
    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values[trainer.global_step, batch_idx % 2] = outputs["loss"].item()  # type: ignore[index]


def callbacks(method: type[CausalLMModule], folder: Path) -> tuple[list[Callback], Losses]:
    losses = Losses()
    save = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=CHECKPOINT_STEP, save_top_k=-1)
    return [
        losses,
        save,
        *([EMATeacher(teacher_rate=0.1)] if issubclass(method, SDFTModule | SDPOModule) else []),
    ], losses


def check_resume(
    method: type[CausalLMModule],
    workers: int,
    words_module: Any,
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
    precision: str = "32-true",
    accelerator: str = "cpu",
    beside: Callable[[], list[Callback]] = list,
    data: Callable[[], dict[str, Any]] = dict,
    **arguments: Any,
) -> None:
    """Compare a run with one that goes on from a checkpoint in the middle of it.

    Args:
        beside: Makes further callbacks of a run.
        data: Makes further arguments of its data module.
    """

    def fit(folder: str, ckpt_path: Path | None = None) -> tuple[CausalLMModule, Losses]:
        seed_everything(7 if ckpt_path is None else 8)  # a resumed process starts from another state
        module = words_module(method, **arguments)
        each, losses = callbacks(method, tmp_path / folder)
        each += beside()
        options = {"max_epochs": 3, "max_steps": STEPS, "callbacks": each, "enable_checkpointing": True}
        trainer = make_trainer(**options, precision=precision, accelerator=accelerator)
        trainer.fit(module, datamodule=words_data(workers=workers, **data()), ckpt_path=ckpt_path)
        return module, losses

    whole, whole_losses = fit("whole")
    checkpoint = tmp_path / "whole" / f"step={CHECKPOINT_STEP}.ckpt"
    resumed, resumed_losses = fit("resumed", checkpoint)

    later = {key: value for key, value in whole_losses.values.items() if key[0] > CHECKPOINT_STEP}  # type: ignore[index]
    assert {key: resumed_losses.values[key] for key in later} == later
    state = whole.state_dict()
    assert all(torch.equal(state[name], value) for name, value in resumed.state_dict().items())
    assert state.keys() == resumed.state_dict().keys()


@pytest.mark.parametrize(
    ("method", "base", "precision"),
    [
        (SFTModule, "full", "32-true"),
        (SDFTModule, "full", "32-true"),
        (SDFTModule, "nf4", "bf16-true"),
        (SFTModule, "int8", "32-true"),
    ],
)
def test_resumed_run_with_an_adapter_equals_the_uninterrupted_one(
    method: type[CausalLMModule],
    base: Any,
    precision: str,
    words_module: Any,
    words_data: Any,
    make_trainer: Any,
    tmp_path: Path,
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(method, 0, *fixtures, precision, **ADAPTER | {"lora": replace(ADAPTER["lora"], base=base)})


@pytest.mark.parametrize(
    ("method", "workers"), [(SFTModule, 0), (CPTModule, 0), (DFTModule, 0), (SDFTModule, 0), (SDFTModule, 2)]
)
def test_resumed_run_equals_the_uninterrupted_one(
    method: type[CausalLMModule], workers: int, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    check_resume(method, workers, words_module, words_data, make_trainer, tmp_path)


@pytest.mark.parametrize(("memory", "precision"), [("compensated", "bf16-true"), ("offload", "bf16-mixed")])
def test_resumed_run_has_the_exact_teacher_in_every_form(
    memory: Any, precision: Any, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(SDFTModule, 0, *fixtures, precision=precision, teacher=CopiedTeacher(memory))


@pytest.mark.parametrize("arguments", [{}, ADAPTER])
def test_resumed_run_mixes_the_same_reference_and_student(
    arguments: dict[str, Any], words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(DistillationModule, 0, *fixtures, teacher=TrustRegionTeacher(0.3), **SHOWN, **arguments)


def test_resumed_run_is_told_the_same_of_its_answers(
    words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    examples = [replace(question(index), reference="w5") for index in range(16)]

    def data(**arguments: Any) -> Any:
        return words_data(examples, [EvaluationSet(examples[:2], {"words": ExactMatch()})], **arguments)

    fixtures = (words_module, data, make_trainer, tmp_path)
    check_resume(SDPOModule, 0, *fixtures, teacher_template=TOLD, generations=2)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "arguments"),
    [
        ("32-true", {}),
        ("bf16-mixed", {"teacher": CopiedTeacher("offload")}),
        ("bf16-true", {"teacher": CopiedTeacher("compensated")}),
        ("16-mixed", {}),  # whose scale of the gradients is part of the state
        ("bf16-mixed", ADAPTER),  # whose dropout draws on the device
        ("bf16-true", ADAPTER | {"lora": replace(ADAPTER["lora"], base="nf4")}),  # quantized on the device
    ],
)
def test_resumed_run_on_a_gpu_equals_the_uninterrupted_one(
    precision: str, arguments: Any, words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path
) -> None:
    fixtures = (words_module, words_data, make_trainer, tmp_path)
    check_resume(SDFTModule, 0, *fixtures, precision, "gpu", **arguments)


def test_without_the_state_of_the_generators_a_resumed_run_differs(
    words_module: Any, words_data: Any, make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would miss if nothing were drawn."""
    monkeypatch.setattr(exact_resume, "_restore", lambda state: None)
    with pytest.raises(AssertionError):
        check_resume(SDFTModule, 0, words_module, words_data, make_trainer, tmp_path)
