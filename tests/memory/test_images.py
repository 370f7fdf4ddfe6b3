"""The estimate of a model that reads images, beside what the allocator gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.data import JsonDataModule
from lightning_sdft.memory import TrainerPlan, estimate, lengths_by_budgets, lengths_by_data
from lightning_sdft.modules import CausalLMModule, SDFTModule, SFTModule
from tests.memory.test_rehearsal import fit
from tests.vision.tiny import PATCH, make_folder, write_rows

SIDE = 32
"""Patches on a side of each image, of which four are a token."""

TOKENS = SIDE**2 // 4
TEMPLATE = "look: {prompt} as: {demonstration}!"


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp(request.param), request.param, wide=6, side=SIDE)


@pytest.fixture
def data(tmp_path: Path) -> JsonDataModule:
    rows = write_rows(tmp_path, sizes=[(SIDE * PATCH, SIDE * PATCH)])
    return JsonDataModule(train=str(rows), image_column="images", batch_size=4, micro_batch_size=2)


def make(folder: Path, method: type[CausalLMModule], **arguments: Any) -> CausalLMModule:
    shown = {"teacher_template": TEMPLATE, "max_teacher_prompt_tokens": TOKENS + 100}
    own = {"max_prompt_tokens": TOKENS + 60, "max_completion_tokens": 24, "warmup_steps": 0}
    module = method(str(folder), **own, **(shown if issubclass(method, SDFTModule) else {}), **arguments)
    module.tokenizer.stop_ids = set()
    return module


@pytest.mark.parametrize("method", [SFTModule, SDFTModule])
def test_training_on_images_takes_what_was_estimated(
    method: type[CausalLMModule], folder: Path, data: JsonDataModule, make_trainer: Any
) -> None:
    module = make(folder, method)
    lengths = lengths_by_data(module, data, 1)
    assert lengths.image == TOKENS
    reader = module.tokenizer.images
    estimated = estimate(module, TrainerPlan(teacher_follows=method is SDFTModule), lengths).peak
    assert module.tokenizer.images is reader
    real = fit(module, data, make_trainer, accumulate_grad_batches=2)
    assert estimated == pytest.approx(real, rel=0.1)


def test_budgets_may_be_full_of_images(folder: Path, data: JsonDataModule) -> None:
    module = make(folder, SFTModule)
    by_budget, by_data = lengths_by_budgets(module, data, 1, 1), lengths_by_data(module, data, 1)
    assert by_budget.image == module.max_prompt_tokens
    peaks = [estimate(module, TrainerPlan(), each).peak for each in (by_budget, by_data)]
    assert peaks[0] > peaks[1]
