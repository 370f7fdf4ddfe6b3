from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.errors import PolicyError
from lightning_sdft.memory import TrainerPlan
from lightning_sdft.teacher import EMATeacher

GPUS = {"accelerator": "gpu", "devices": 4}


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("trainer", "processes"),
    [
        ({}, 1),
        ({"devices": "auto"}, 1),
        ({"devices": 3}, 3),
        ({"devices": "3"}, 3),
        ({"devices": "0,2,"}, 2),
        ({"devices": [0, 1, 5]}, 3),
        ({**GPUS, "num_nodes": 2}, 8),
    ],
)
def test_processes_are_counted_from_devices_and_nodes(trainer: dict[str, Any], processes: int) -> None:
    assert TrainerPlan.of(trainer).processes == processes
    assert TrainerPlan.of(trainer, processes=6).processes == 6


def test_devices_of_a_machine_that_is_not_here_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for devices in ("auto", -1, "-1"):
        with pytest.raises(PolicyError, match=rf"devices={devices} leaves their number .*give --processes"):
            TrainerPlan.of({"accelerator": "gpu", "devices": devices})
    assert TrainerPlan.of({"accelerator": "gpu"}, processes=2).processes == 2
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 5)
    assert TrainerPlan.of({"accelerator": "gpu"}).processes == 5


def test_accelerator_is_the_one_of_this_machine_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not TrainerPlan.of({}).accelerator
    assert not TrainerPlan.of({"accelerator": "cpu"}).accelerator
    assert TrainerPlan.of({"accelerator": "cuda", "devices": 1}).accelerator
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert TrainerPlan.of({"devices": 1}).accelerator
    assert not TrainerPlan.of({"accelerator": "cpu"}).accelerator


@pytest.mark.parametrize(
    ("strategy", "sharing", "parts"),
    [
        (None, "ddp", 1),
        ("auto", "ddp", 1),
        ("ddp_spawn", "ddp", 1),
        (DDPStrategy(), "ddp", 1),
        ("fsdp2", "fsdp2", 4),
        (FSDP2Strategy(), "fsdp2", 4),
        (FSDP2Strategy(replicas=2), "fsdp2", 2),
    ],
)
def test_weights_are_cut_under_fsdp2_within_a_replica(strategy: Any, sharing: str, parts: int) -> None:
    plan = TrainerPlan.of({**GPUS, "strategy": strategy})
    assert (plan.sharing, plan.parts) == (sharing, parts)
    alone = TrainerPlan.of({**GPUS, "devices": 1, "strategy": "auto"})
    assert (alone.sharing, alone.parts) == ("alone", 1)


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed", FSDPStrategy()])
def test_other_strategies_are_refused(strategy: Any) -> None:
    with pytest.raises(PolicyError, match=r"memory knows no strategy .*auto, ddp and fsdp2"):
        TrainerPlan.of({**GPUS, "strategy": strategy})


@pytest.mark.parametrize(
    ("name", "weights", "products"),
    [
        (None, torch.float32, None),
        (32, torch.float32, None),
        ("64", torch.float64, None),
        ("bf16-true", torch.bfloat16, None),
        ("16-true", torch.float16, None),
        ("bf16", torch.float32, torch.bfloat16),
        (16, torch.float32, torch.float16),
    ],
)
def test_precisions_have_lightnings_names(name: Any, weights: torch.dtype, products: torch.dtype | None) -> None:
    plan = TrainerPlan.of({"precision": name})
    assert (plan.weight_precision, plan.product_precision) == (weights, products)
    with plan.loading():
        assert torch.empty(1).dtype == weights
    assert torch.empty(1).dtype == torch.float32
    with plan.computing():
        assert torch.is_autocast_enabled("cpu") == (products is not None)
        assert products is None or torch.get_autocast_dtype("cpu") == products


def test_other_precisions_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"no precision 'transformer-engine'; it knows 64-true, .*bf16-mix"):
        TrainerPlan.of({"precision": "transformer-engine"})


def test_callbacks_say_whether_the_teacher_moves() -> None:
    assert TrainerPlan.of({"callbacks": [LearningRateMonitor(), EMATeacher(0.1)]}).teacher_follows
    assert not TrainerPlan.of({"callbacks": [LearningRateMonitor()]}).teacher_follows


@pytest.mark.parametrize(
    ("trainer", "evaluates"),
    [
        ({}, True),
        ({"num_sanity_val_steps": 0}, True),
        ({"limit_val_batches": 0}, False),
        ({"limit_val_batches": 0.0, "num_sanity_val_steps": 2}, False),  # without batches there is no sanity check
        ({"limit_val_batches": 1}, True),
    ],
)
def test_a_run_without_validation_batches_answers_no_prompts(trainer: dict[str, Any], evaluates: bool) -> None:
    assert TrainerPlan.of(trainer).evaluates == evaluates
