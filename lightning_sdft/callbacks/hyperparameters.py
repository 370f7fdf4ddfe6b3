"""Hyper-parameters beside final metrics in TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.storage.masking import masked

__all__ = ["HyperparameterSummary"]


class HyperparameterSummary(Callback):
    """Logs the arguments of the module and the data module to TensorBoard's tab HParams, without secrets.

    Args:
        metrics: Names of the metrics to show beside them, each with its last value.
    """

    def __init__(self, metrics: list[str] | None = None) -> None:
        self.metrics = ["val/accuracy", "prior/average", "train/loss"] if metrics is None else metrics

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the arguments, unless a resumed run has them in its folder; NaN stands for metrics to come."""
        arguments = {"method": type(pl_module).__name__, **flatten(masked(pl_module.hparams))}
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            arguments |= {"data": type(datamodule).__name__, **flatten(masked(datamodule.hparams), "data.")}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not _goes_on(trainer, logger):
                logger.log_hyperparams(arguments, dict.fromkeys(self.metrics, math.nan))


def _goes_on(trainer: Trainer, logger: TensorBoardLogger) -> bool:
    """Whether training resumes from a checkpoint in the folder that the logger writes to."""
    return (
        trainer.ckpt_path is not None and Path(logger.log_dir).absolute() in Path(trainer.ckpt_path).absolute().parents
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names, as numbers, booleans and text; names that begin with ``_`` are left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("_"):
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (int, float, bool)) else str(value)
    return flat
