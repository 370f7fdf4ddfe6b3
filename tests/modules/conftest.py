from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_sdft.data import StringSkillsDataModule
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.data.splits import EvaluationSet, Splits
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.modules import CausalLMModule, DFTModule, DistillationModule, SDFTModule, SFTModule
from lightning_sdft.records import Example
from lightning_sdft.teacher import CopiedTeacher

METHODS = [SFTModule, DFTModule, SDFTModule]

BUDGETS = {"max_prompt_tokens": 16, "max_completion_tokens": 14, "learning_rate": 1e-3, "warmup_steps": 1}

WORDS_TEMPLATE = "w50 {prompt} w51 {demonstration} w52"
"""A teacher template in the vocabulary of the tiny models of tests/conftest.py."""


@pytest.fixture
def make_data() -> Callable[..., StringSkillsDataModule]:
    """A data module of four steps per epoch, in two micro-batches each."""

    def make(**arguments: Any) -> StringSkillsDataModule:
        sizes = {"train_size": 34, "validation_size": 4, "test_size": 4, "prior_size": 4}
        return StringSkillsDataModule(**{**sizes, "batch_size": 8, "micro_batch_size": 4, **arguments})

    return make


@pytest.fixture
def make_module() -> Callable[..., CausalLMModule]:
    """An untrained model of the laptop model's architecture."""

    def make(method: type[CausalLMModule] = SDFTModule, **arguments: Any) -> CausalLMModule:
        if issubclass(method, SDFTModule):
            sdft = {"teacher_template": LAPTOP_TEMPLATE, "max_teacher_prompt_tokens": 64, "skip_tokens": 0}
            arguments = {**sdft, **arguments}
        return method("zoo/laptop", **{"pretrained": False, **BUDGETS, **arguments})

    return make


@pytest.fixture
def make_trainer(tmp_path: Any) -> Callable[..., Trainer]:
    """A quiet trainer for a few steps, on the CPU unless told otherwise."""

    def make(**arguments: Any) -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        defaults = {"logger": False, "limit_val_batches": 0, "accumulate_grad_batches": 2, "max_steps": 6}
        place = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path}
        return Trainer(**{**quiet, **defaults, **place, **arguments})

    return make


# A tiny model that tells contexts apart though it is random, and examples in its words. Some of its words end a
# response (w5, w15, ...), so some rollouts finish and others are truncated.


def question(index: int) -> Example:
    """An example whose prompt and demonstration are like no other's."""
    prompt = " ".join(f"w{6 + (index + step) % 8}" for step in range(1 + index % 3))
    demonstration = " ".join(f"w{26 + (index + step) % 9}" for step in range(1 + index % 4))
    return Example(str(index), [{"role": "user", "content": f"w{40 + index % 4} {prompt}"}], demonstration)


class WordsDataModule(DemonstrationDataModule):
    """Serves given splits."""

    given: Splits

    def load(self) -> Splits:
        return self.given


@pytest.fixture
def words_data() -> Callable[..., WordsDataModule]:
    """A data module of four steps per epoch, in two micro-batches each."""

    def make(
        train: Sequence[Example] | None = None,
        validation: Sequence[EvaluationSet] = (),
        test: Sequence[EvaluationSet] = (),
        **arguments: Any,
    ) -> WordsDataModule:
        examples = [question(index) for index in range(16)] if train is None else train
        data = WordsDataModule(**{"batch_size": 4, "micro_batch_size": 2, **arguments})
        data.given = Splits(examples, validation, test)  # not as an argument, for those go into checkpoints
        return data

    return make


@pytest.fixture
def words_module(family_folder: Callable[[str], Path]) -> Callable[..., CausalLMModule]:
    """A tiny random Llama."""

    def make(method: type[CausalLMModule] = SDFTModule, **arguments: Any) -> CausalLMModule:
        own: dict[str, Any] = {"max_prompt_tokens": 16, "max_completion_tokens": 8, "warmup_steps": 0}
        if issubclass(method, DistillationModule):
            own["max_teacher_prompt_tokens"] = 32
        if issubclass(method, SDFTModule):
            own |= {"teacher_template": WORDS_TEMPLATE, "skip_tokens": 0}
        return method(**{"model": str(family_folder("llama")), **own, "learning_rate": 1e-2, **arguments})

    return make


@pytest.fixture
def double(family_folder: Callable[[str], Path]) -> Iterator[None]:
    """Models are loaded in float64."""
    family_folder("llama")  # is made in float32 whichever test comes first
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Watch(Callback):
    """Keeps the learning rate and the logged loss of every optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self.losses) < trainer.global_step:
            self.losses.append(trainer.callback_metrics["train/loss"].item())


# What distillation is tested on: prompts as the student and as the teacher of WORDS_TEMPLATE reads them.

EXAMPLES = [
    Example("a", [{"role": "user", "content": "w1 w2"}], "w21 w22 w23", context="w54 w56"),
    Example("b", [{"role": "system", "content": "w4"}, {"role": "user", "content": "w6 w7 w8"}], "w28 w29", "w57"),
    Example("c", [{"role": "user", "content": "w3"}], "w31", context="w54 w58 w1"),
    Example("d", [{"role": "user", "content": "w8 w9"}], "w32 w33", context="w2"),
]

STUDENT_PROMPTS = [
    "<user> w1 w2 <end> <assistant>",
    "<system> w4 <end> <user> w6 w7 w8 <end> <assistant>",
    "<user> w3 <end> <assistant>",
    "<user> w8 w9 <end> <assistant>",
]

TEACHER_PROMPTS = [
    "<user> w50 w1 w2 w51 w21 w22 w23 w52 <end> <assistant>",
    "<system> w4 <end> <user> w50 w6 w7 w8 w51 w28 w29 w52 <end> <assistant>",
    "<user> w50 w3 w51 w31 w52 <end> <assistant>",
    "<user> w50 w8 w9 w51 w32 w33 w52 <end> <assistant>",
]

SHOWN = {"privileged_context": "demonstration", "teacher_template": WORDS_TEMPLATE}


def ready(module: DistillationModule) -> DistillationModule:
    """A module that can step, whose teacher has weights of its own."""
    module.configure_model()
    if isinstance(module.teacher_choice, CopiedTeacher):
        generator = torch.Generator().manual_seed(1)
        for parameter in module.teacher.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return module
