"""The ranges of the trainer's settings that Lightning takes as they come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer

from lightning_sdft.errors import SettingError, did_you_mean
from lightning_sdft.settings.ranges import Count, Natural, NonNegative, Positive, Range, Seed, check_ranges

__all__ = ["check_hardware", "check_seed", "check_trainer"]

INDICES = re.compile(r"-?\d+(,\s*\d+)*,?")
"""What Lightning takes for numbers of devices in a text."""


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


def check_hardware(accelerator: object, devices: object) -> None:
    """Refuse an accelerator that there is not, and devices that are no number and no list.

    Args:
        accelerator: The trainer's; an object is taken as it is.
        devices: The trainer's.

    Raises:
        SettingError: If there are none of these; the message says what there is.
    """
    kinds = AcceleratorRegistry.available_accelerators()
    usable = [name for name in kinds if AcceleratorRegistry[name]["accelerator"].is_available()]
    if isinstance(accelerator, str) and accelerator not in ("auto", *usable):
        names = ["auto", "gpu", *kinds]
        here = f"here there are {', '.join(sorted(usable))}"
        if accelerator not in names:
            raise SettingError(
                f"Trainer: there is no accelerator={accelerator}{did_you_mean(accelerator, names)}; {here}"
            )
        if accelerator != "gpu" or not {"cuda", "mps"}.intersection(usable):
            raise SettingError(
                f"Trainer: accelerator={accelerator}, but torch {torch.__version__} finds no such device; {here}. Set "
                "trainer.accelerator=auto, or install the torch that is made for the device"
            )
    if isinstance(devices, str) and devices != "auto" and not INDICES.fullmatch(devices):
        raise SettingError(
            f"Trainer: devices={devices} must be a whole number >= 1, indices such as 0,1 or auto; set trainer.devices"
        )


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
