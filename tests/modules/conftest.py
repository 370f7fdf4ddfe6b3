from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_sdft.data import StringSkillsDataModule
from lightning_sdft.data.templates import LAPTOP_TEMPLATE
from lightning_sdft.modules import CausalLMModule, SDFTModule

BUDGETS = {"max_prompt_tokens": 16, "max_completion_tokens": 14, "learning_rate": 1e-3, "warmup_steps": 1}


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
        return method("zoo/laptop", pretrained=False, **{**BUDGETS, **arguments})

    return make


@pytest.fixture
def make_trainer(tmp_path: Any) -> Callable[..., Trainer]:
    """A quiet trainer for a few steps on the CPU."""

    def make(**arguments: Any) -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        defaults = {"logger": False, "limit_val_batches": 0, "accumulate_grad_batches": 2, "max_steps": 6}
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, **{**quiet, **defaults, **arguments})

    return make
