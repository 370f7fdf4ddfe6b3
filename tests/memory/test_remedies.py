from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.memory import Remedy, TrainerPlan, estimate, lengths_by_budgets, remedies
from lightning_sdft.modules import SDFTModule, SFTModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.teacher import CopiedTeacher, LiveTeacher

SMALLER = "data.micro_batch_size=1"
CHECKPOINTING = "model.gradient_checkpointing=true"
FEWER = "data.evaluation_batch_size=4"
ADAPTER = "model.lora.rank=16"
FOUR_BITS = "model.lora.rank=16 model.lora.base=nf4"
OFFLOAD = "model.teacher=CopiedTeacher model.teacher.memory=offload"
NARROW = "trainer.precision=bf16-true"
SHARDED = "trainer.strategy=fsdp2 trainer.devices=8 data.micro_batch_size=1"

GPU = TrainerPlan(accelerator=True, teacher_follows=True, evaluates=True)
NARROWED = replace(GPU, precision="bf16-true")


def peak(module: Any, data: Any, plan: TrainerPlan = GPU, evaluated: int = 16) -> Any:
    return estimate(module, plan, lengths_by_budgets(module, data, plan.processes, evaluated))


def found(module: Any, data: Any, plan: TrainerPlan = GPU, evaluated: int = 16) -> list[Remedy]:
    return remedies(module, data, plan, evaluated, peak(module, data, plan, evaluated))


def offered(*arguments: Any) -> set[str]:
    return {each.settings for each in found(*arguments)}


@pytest.fixture
def module(words_module: Callable[..., Any]) -> Any:
    """A run that generates and evaluates little, so that a training step is what takes most."""
    return words_module(SDFTModule, max_prompt_tokens=20, max_completion_tokens=30)


@pytest.fixture
def data(words_data: Callable[..., Any]) -> Any:
    return words_data(batch_size=8, micro_batch_size=4, evaluation_batch_size=16)


@pytest.fixture(scope="module")
def promises() -> dict[str, int]:
    """What the remedies of that run would take, once they are known."""
    return {}


def test_what_helps_most_comes_first_and_module_and_data_are_left_as_they_were(
    module: Any, data: Any, promises: dict[str, int]
) -> None:
    names = ("lora", "gradient_checkpointing", "teacher_choice", "pretrained", "attention")
    sizes = ("batch_size", "micro_batch_size", "evaluation_batch_size")
    before = [getattr(module, name) for name in names], [getattr(data, name) for name in sizes]
    remedy = found(module, data)
    assert ([getattr(module, name) for name in names], [getattr(data, name) for name in sizes]) == before
    assert not {"policy", "teacher"} & module._modules.keys()
    peaks = [each.peak for each in remedy]
    assert peaks == sorted(peaks)
    assert max(peaks) < peak(module, data).peak
    assert {SMALLER, CHECKPOINTING, OFFLOAD, NARROW, SHARDED} <= {each.settings for each in remedy}
    promises |= {each.settings: each.peak for each in remedy}


@pytest.mark.parametrize(
    ("settings", "arguments", "sizes", "plan"),
    [
        (SMALLER, {}, {"micro_batch_size": 1}, GPU),
        (CHECKPOINTING, {"gradient_checkpointing": True}, {}, GPU),
        (OFFLOAD, {"teacher": CopiedTeacher("offload")}, {}, GPU),
        (NARROW, {}, {}, NARROWED),
        (SHARDED, {}, {"micro_batch_size": 1}, TrainerPlan(True, 8, "fsdp2", teacher_follows=True, evaluates=True)),
    ],
)
def test_a_remedy_is_what_a_run_with_its_settings_would_take(
    settings: str,
    arguments: dict[str, Any],
    sizes: dict[str, Any],
    plan: TrainerPlan,
    module: Any,
    data: Any,
    promises: dict[str, int],
    words_module: Callable[..., Any],
    words_data: Callable[..., Any],
) -> None:
    promises |= {} if promises else {each.settings: each.peak for each in found(module, data)}
    other = words_module(SDFTModule, max_prompt_tokens=20, max_completion_tokens=30, **arguments)
    real = peak(other, words_data(**{"batch_size": 8, "micro_batch_size": 4, **sizes}), plan).peak
    assert promises[settings] == pytest.approx(
        real, abs=4 * 64
    )  # an optimizer counts the steps of each tensor, or does not


def test_fewer_answers_at_a_time_help_where_evaluation_takes_most(words_module: Callable[..., Any], data: Any) -> None:
    module = words_module(SFTModule, max_prompt_tokens=4, max_completion_tokens=4)
    before = peak(module, data, GPU, 256)
    assert before.largest.name == "evaluation"
    few = {each.settings: each.peak for each in found(module, data, GPU, 256)}["data.evaluation_batch_size=64"]
    assert few == max(peak(module, data, GPU, 64).peak, before.always)
    assert FEWER not in offered(module, data, GPU, 1)


def test_adapter_is_what_a_large_model_is_trained_by(three_billion: str, data: Any) -> None:
    module = SFTModule(three_billion, max_prompt_tokens=64, max_completion_tokens=64)
    best = found(module, data, TrainerPlan(accelerator=True))
    adapter = next(each for each in best if each.settings == ADAPTER)
    weights = 2_954_460_672
    assert 4 * weights < adapter.peak < 6 * weights  # and not 16 bytes for each of them
    assert peak(module, data, TrainerPlan(accelerator=True), 0).held["optimizer"] > 8 * weights


def test_four_bits_under_an_adapter_take_an_eighth_of_its_weights(three_billion: str, data: Any) -> None:
    module = SFTModule(three_billion, max_prompt_tokens=64, max_completion_tokens=64)
    peaks = {each.settings: each.peak for each in found(module, data, TrainerPlan(accelerator=True))}
    linear = (peaks[ADAPTER] - peaks[FOUR_BITS]) / (4 - 33 / 64)  # bytes a weight before and after
    layer = 3 * 3584 * 18944 + 2 * 3584 * (3584 + 512)  # embeddings and head stay whole
    assert linear == pytest.approx(8 * layer, rel=0.01)
    module.lora = LoRA()
    assert "model.lora.base=nf4" in offered(module, data, TrainerPlan(accelerator=True))


def test_a_model_without_linear_layers_is_offered_no_bits(family_folder: Callable[[str], Path], data: Any) -> None:
    module = SFTModule(str(family_folder("gpt2")), max_prompt_tokens=20, max_completion_tokens=30)
    assert FOUR_BITS not in offered(module, data) >= {ADAPTER}


@pytest.mark.parametrize(
    ("arguments", "sizes", "plan", "absent"),
    [
        ({"gradient_checkpointing": True}, {"micro_batch_size": 1}, NARROWED, [SMALLER, CHECKPOINTING, NARROW]),
        ({"lora": LoRA(rank=4)}, {}, GPU, [ADAPTER, OFFLOAD]),
        ({"teacher": LiveTeacher()}, {"batch_size": 4}, GPU, [OFFLOAD, SHARDED]),
        ({"rollout_source": "teacher"}, {}, GPU, [OFFLOAD]),
        ({}, {}, TrainerPlan(teacher_follows=True), [OFFLOAD, NARROW, SHARDED]),  # it is on the CPU already
    ],
)
def test_what_is_set_or_cannot_be_is_not_offered(
    arguments: dict[str, Any],
    sizes: dict[str, Any],
    plan: TrainerPlan,
    absent: list[str],
    words_module: Callable[..., Any],
    words_data: Callable[..., Any],
) -> None:
    module = words_module(SDFTModule, max_prompt_tokens=20, max_completion_tokens=30, **arguments)
    data = words_data(**{"batch_size": 8, "micro_batch_size": 4, **sizes})
    settings = offered(module, data, plan)
    assert settings
    assert not any(each.startswith(setting.split()[0]) for each in settings for setting in absent)
