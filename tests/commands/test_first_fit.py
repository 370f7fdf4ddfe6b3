from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_sdft.commands import first_fit
from lightning_sdft.commands.first_fit import built, is_elsewhere, settle
from lightning_sdft.errors import PolicyError
from lightning_sdft.memory import Room, fitting


def settings(accelerator: str = "cpu") -> dict[str, Any]:
    budgets = {"max_prompt_tokens": 16, "max_completion_tokens": (24, "why"), "max_teacher_prompt_tokens": 64}
    return {
        "config": ["method/sdft"],
        "model": {"init_args": {"model": "zoo/laptop", **budgets}},
        "data": {"class_path": "StringSkillsDataModule", "init_args": {"batch_size": 8, "train_size": 16}},
        "trainer": {"accelerator": accelerator, "devices": 1, "precision": "32-true", "max_epochs": 1},
    }


def test_what_fits_is_written_into_the_settings() -> None:
    config = settings()
    said = settle(config, "sdft")
    size, why = config["data"]["init_args"]["micro_batch_size"]
    assert said.endswith(f"micro-batches of {size}")
    assert size == 8
    assert "at the peak of training" in why
    assert config["model"]["init_args"]["learning_rate"][0] == 5e-5
    run = built(config, on_device=True)
    assert (run.datamodule.micro_batch_size, run.model.max_completion_tokens) == (8, 24)


def test_what_does_not_fit_becomes_leaner(monkeypatch: pytest.MonkeyPatch) -> None:
    def fits_when_lean(asked: Any, *rest: Any) -> Any:
        if not asked.gradient_checkpointing:
            raise PolicyError("too large")
        return fitting(asked, *rest)

    monkeypatch.setattr(first_fit, "fitting", fits_when_lean)
    config = settings()
    settle(config, "sdft")
    assert config["model"]["init_args"]["gradient_checkpointing"] is True
    assert "lora" not in config["model"]["init_args"]


def test_what_fits_in_no_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_fit, "room", lambda *_: Room(1, 1))
    with pytest.raises(PolicyError, match="is all that there is for a process"):
        settle(settings(), "sdft")


def test_for_a_device_that_is_elsewhere_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    config = settings("gpu")
    assert (is_elsewhere(config), is_elsewhere(settings())) == (True, False)
    assert "there is no GPU here" in settle(config, "sdft")
    assert "micro_batch_size" not in config["data"]["init_args"]
