"""Hyper-parameters beside final metrics in TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_sdft.callbacks.prior_tasks import PriorTasks
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.storage.masking import masked
from lightning_sdft.teacher import EMATeacher

__all__ = ["HyperparameterSummary"]

FIRST = {
    "method": "1 method",
    "learning_rate": "2 learning_rate",
    "data.batch_size": "3 batch_size",
    "teacher_rate": "4 teacher_rate",
    "model": "5 model",
    "data": "6 data",
}
"""Names in TensorBoard, which lists them by name and ticks the first five, of what tells most runs apart."""


ACCURACY, LOSS = "val/accuracy", "val/loss"

PRIOR, PRIOR_LOSS = "prior/average", "prior_loss/average"


class HyperparameterSummary(Callback):
    """Logs the arguments of the module and the data module, without secrets: in TensorBoard to the tab HParams.

    There the method, the learning rate, the batch size, the rate of :class:`EMATeacher`, the model and the data come
    first, numbered, because TensorBoard sorts by name. Other loggers get all arguments by their own names.

    Args:
        metrics: Names of the metrics to show beside them, each with its last value. By default accuracies of the new
            task and of prior tasks, or losses where there are no references, and the loss of training.
    """

    def __init__(self, metrics: list[str] | None = None) -> None:
        self.metrics = metrics

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the arguments, unless a resumed run has them in its folder; NaN stands for metrics to come."""
        arguments = {"method": type(pl_module).__name__, **flatten(masked(pl_module.hparams))}
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            arguments |= {"data": type(datamodule).__name__, **flatten(masked(datamodule.hparams), "data.")}
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set outside of __init__
        for callback in callbacks:
            if isinstance(callback, EMATeacher):
                arguments["teacher_rate"] = callback.teacher_rate
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(arguments)
            elif not _goes_on(trainer, logger):
                metrics = measured(pl_module, callbacks) if self.metrics is None else self.metrics
                logger.log_hyperparams(first_ones_first(arguments), dict.fromkeys(metrics, math.nan))


def measured(module: LightningModule, callbacks: Sequence[Callback]) -> list[str]:
    """The metrics that tell how a run has ended, by what it is evaluated on.

    Args:
        module: The module, with its evaluation sets.
        callbacks: The callbacks, of which :class:`PriorTasks` measures too.
    """
    sets = module.graded.sets if isinstance(module, CausalLMModule) else ()
    names = {(False, True): ACCURACY, (False, False): LOSS, (True, True): PRIOR, (True, False): PRIOR_LOSS}
    found = {(each.prior, bool(each.graders)) for each in sets}
    found |= {(True, True) for each in callbacks if isinstance(each, PriorTasks)}
    return [*(name for kind, name in names.items() if kind in found), "train/loss"]


def _goes_on(trainer: Trainer, logger: TensorBoardLogger) -> bool:
    """Whether training resumes from a checkpoint in the folder that the logger writes to."""
    return (
        trainer.ckpt_path is not None and Path(logger.log_dir).absolute() in Path(trainer.ckpt_path).absolute().parents
    )


def first_ones_first(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, those of :data:`FIRST` under names that TensorBoard lists first.

    Example:
        >>> first_ones_first({"attention": "sdpa", "learning_rate": 0.1, "data.batch_size": 8})
        {'attention': 'sdpa', '2 learning_rate': 0.1, '3 batch_size': 8}
    """
    return {FIRST.get(name, name): value for name, value in arguments.items()}


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
