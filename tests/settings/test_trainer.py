"""Settings of the trainer with which it would do something else than they say."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_sdft.errors import SettingError
from lightning_sdft.settings.trainer import check_trainer
from tests.modules.conftest import make_trainer, words_data, words_module

__all__ = ["make_trainer", "words_data", "words_module"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gradient_clip_val": -1}, "gradient_clip_val=-1 must be a number >= 0"),
        ({"gradient_clip_val": math.nan}, "gradient_clip_val=nan"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0 must be a whole number >= 1"),
        ({"min_epochs": -3}, "min_epochs=-3"),
        ({"min_steps": -3}, "min_steps=-3"),
        ({"val_check_interval": 0.0}, "val_check_interval=0.0 must be a number > 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch=0"),
        ({"num_sanity_val_steps": -5}, "num_sanity_val_steps=-5"),
        ({"log_every_n_steps": -1}, "log_every_n_steps=-1"),
        ({"max_time": timedelta(0)}, "max_time must be a time above 0"),
    ],
)
def test_absurd_setting_is_refused_before_the_model_is_loaded(
    setting: dict[str, Any], message: str, make_trainer: Any, words_module: Any
) -> None:
    module = words_module()
    with pytest.raises(SettingError, match=f"^Trainer: {message}"):
        make_trainer(**setting).fit(module, train_dataloaders=[])
    assert not hasattr(module, "policy")


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"gradient_clip_val": None},
        {"gradient_clip_val": 0.5},
        {"val_check_interval": 3},
        {"val_check_interval": timedelta(minutes=1)},
        {"check_val_every_n_epoch": None, "val_check_interval": 3},
        {"num_sanity_val_steps": -1},
        {"log_every_n_steps": 0},
        {"fast_dev_run": True},
        {"max_time": timedelta(seconds=1)},
    ],
)
def test_what_lightning_documents_is_accepted(setting: dict[str, Any]) -> None:
    check_trainer(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **setting))
