"""Makes a first config fit the memory there is, by building its run without loading the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lightning_sdft.commands.first_config import Method, config_text, learning_rate
from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.errors import PolicyError
from lightning_sdft.memory import Fitting, Room, TrainerPlan, fitting, in_gib, room
from lightning_sdft.policy import LoRA

__all__ = ["built", "is_elsewhere", "quietly", "settle"]

UNKNOWN = Room(2**60, 2**60)
"""The memory of a device that is not here."""

LEANER: tuple[dict[str, Any], ...] = (
    {},
    {"gradient_checkpointing": True},
    {"lora": {"rank": LoRA().rank}},
    {"lora": {"rank": LoRA().rank}, "gradient_checkpointing": True},
)
"""Settings that are tried one after another until the run fits."""


def is_elsewhere(settings: dict[str, Any]) -> bool:
    """Whether a config is for a GPU, and there is none here."""
    return settings["trainer"]["accelerator"] == "gpu" and not torch.accelerator.is_available()


def settle(settings: dict[str, Any], method: Method) -> str:
    """Set what makes the run fit, and the learning rate that goes with it; returns what was found."""
    own, rows, trainer = settings["model"]["init_args"], settings["data"]["init_args"], settings["trainer"]
    elsewhere = is_elsewhere(settings)
    for leaner in LEANER:
        cli = built({**settings, "model": {"init_args": {**own, **leaner}}})
        devices = {name: trainer[name] for name in ("accelerator", "precision")}
        plan = TrainerPlan.of({**cli.config_init.trainer.as_dict(), **devices})
        memory = UNKNOWN if elsewhere else room(plan.accelerator, 1)
        try:
            with quietly():
                found: Fitting = fitting(cli.model, cli.datamodule, plan, memory)
        except PolicyError as error:
            refusal = error
            continue
        own |= leaner
        rate = learning_rate(found.weights // plan.weight_precision.itemsize, method, "lora" in leaner)
        own["learning_rate"] = (rate, "compare with half of it and twice as much")
        if elsewhere:
            return "there is no GPU here, so fit chooses the micro-batches where there is one"
        rows["micro_batch_size"] = (found.micro_batch_size, f"about {in_gib(found.peak)} at the peak of training")
        return f"about {in_gib(found.peak)} of {in_gib(memory.free)}, micro-batches of {found.micro_batch_size}"
    raise refusal


def built(settings: dict[str, Any], on_device: bool = False) -> SDFTCLI:
    """Module and data module of a config, of which nothing is loaded.

    Args:
        settings: The config.
        on_device: Whether the trainer is to use the device of the config, which must then be here.
    """
    here = ["--trainer.logger=false"]
    if not on_device:
        here += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    with TemporaryDirectory() as folder, quietly():
        file = Path(folder) / "run.yaml"
        file.write_text(config_text([], settings), encoding="utf-8")
        return main(["--config", str(file), *here], run=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what Lightning says of devices; what we have to say is said already."""
    # These are the loggers with levels of their own.
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning_sdft")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
