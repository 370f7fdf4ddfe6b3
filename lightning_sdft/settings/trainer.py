"""The ranges of the trainer's settings that Lightning takes as they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from lightning_sdft.errors import SettingError
from lightning_sdft.settings.ranges import Count, Natural, NonNegative, Positive, Range, Seed, check_ranges

__all__ = ["check_seed", "check_trainer"]


@dataclass(frozen=True)
class _TrainerSettings:
    gradient_clip_val: NonNegative | None
    accumulate_grad_batches: Count
    min_epochs: Natural | None
    min_steps: Natural | None
    val_check_interval: Positive | None
    check_val_every_n_epoch: Count | None
    num_sanity_val_steps: Annotated[int, Range(-1)] | None
    log_every_n_steps: Natural


def check_seed(seed_everything: Seed | None) -> None:
    """Refuse a seed that the generators do not take; ``True`` asks for a random one.

    Raises:
        SettingError: If it is out of range.
    """
    if not isinstance(seed_everything, bool):
        check_ranges(check_seed, locals(), "Trainer")


def check_trainer(trainer: Trainer) -> None:
    """Refuse settings of the trainer with which it would do something else than they say.

    Raises:
        SettingError: If there are any; the message names one and its range.
    """
    # Lightning leaves val_check_interval out if it is a time.
    values = {name: getattr(trainer, name, None) for name in _TrainerSettings.__annotations__}
    if values["num_sanity_val_steps"] == float("inf"):  # Lightning's for -1: all batches
        values["num_sanity_val_steps"] = -1
    check_ranges(_TrainerSettings, values, "Trainer")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set outside of __init__
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            raise SettingError("Trainer: max_time must be a time above 0, or no step would be taken")
