"""The tiny model and rows with pictures, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_sdft.data import JsonDataModule
from lightning_sdft.modules import CausalLMModule, SDFTModule
from lightning_sdft.policy import Policy
from tests.vision.tiny import make_folder, picture, write_rows


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen2_vl"])
def either_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of each kind in turn."""
    return make_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of Qwen2.5-VL's kind."""
    return make_folder(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def seeing(vision_folder: Path) -> Policy:
    """Its policy."""
    return Policy.load(str(vision_folder))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = [(20, 31), (33, 17), (8, 40), (50, 50)]
    return [picture(folder / f"{width}.png", width, height) for width, height in sizes]


BUDGETS = {"max_prompt_tokens": 96, "max_completion_tokens": 12, "learning_rate": 1e-2, "warmup_steps": 0}
SHOWN = {"teacher_template": "look: {prompt} as: {demonstration}!", "max_teacher_prompt_tokens": 128, "skip_tokens": 0}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows with pictures beside it."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def make_module(vision_folder: Path) -> Callable[..., CausalLMModule]:
    """A module on the tiny model."""

    def make(method: type[CausalLMModule] = SDFTModule, **arguments: Any) -> CausalLMModule:
        own = {**BUDGETS, **(SHOWN if issubclass(method, SDFTModule) else {})}
        return method(str(vision_folder), **{**own, **arguments})

    return make


@pytest.fixture
def make_data(rows: Path) -> Callable[..., JsonDataModule]:
    """A data module of two steps per epoch, in two micro-batches each."""

    def make(**arguments: Any) -> JsonDataModule:
        own: dict[str, Any] = {"image_column": "images", "batch_size": 4, "micro_batch_size": 2}
        return JsonDataModule(**{"train": str(rows), **own, **arguments})

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A quiet trainer for a few steps on the CPU."""

    def make(**arguments: Any) -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        own = {"logger": False, "limit_val_batches": 0, "max_steps": 3, "accelerator": "cpu", "devices": 1}
        return Trainer(**{**quiet, **own, "default_root_dir": tmp_path, **arguments})

    return make
