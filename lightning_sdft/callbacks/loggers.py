"""Texts, tables and pictures in whatever a run logs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

from lightning_sdft.callbacks.run_logger import FIRST, LAST
from lightning_sdft.callbacks.tables import Cell, table

__all__ = ["log_picture", "log_table", "log_text"]

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def log_text(trainer: Trainer, name: str, text: str, markdown: str | None = None) -> None:
    """Log a text to TensorBoard and MLflow, and to loggers that have ``log_table`` (Weights & Biases) as a table.

    Args:
        trainer: The trainer, whose first process logs.
        name: Name of the text.
        text: The text.
        markdown: The same as Markdown, for TensorBoard; by default the text itself.
    """
    step = trainer.global_step
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text if markdown is None else markdown, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, _file(name, step, "txt"))
        elif callable(log := getattr(logger, "log_table", None)):
            log(key=_plain(name), columns=["text"], data=[[text]], step=step)


def log_table(
    trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = ""
) -> None:
    """Log a table to TensorBoard as text, and as a table to MLflow and to loggers that have ``log_table``.

    Args:
        trainer: The trainer, whose first process logs.
        name: Name of the table.
        columns: Titles of the columns.
        rows: The cells of each row.
        note: Markdown to show above it in TensorBoard.
    """
    step, data = trainer.global_step, [[cell.text for cell in row] for row in rows]
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            text = table(columns, rows)
            logger.experiment.add_text(name, f"{note}\n\n{text}" if note else text, step)
        elif isinstance(logger, MLFlowLogger):
            by_column = dict(zip(columns, map(list, zip(*data, strict=True)), strict=True))
            logger.experiment.log_table(logger.run_id, by_column, _file(name, step, "json"))
        elif callable(log := getattr(logger, "log_table", None)):
            log(key=_plain(name), columns=list(columns), data=data, step=step)


def log_picture(trainer: Trainer, name: str, pixels: Picture) -> None:
    """Log a picture to TensorBoard, MLflow and loggers that have ``log_image`` (Weights & Biases).

    Args:
        trainer: The trainer, whose first process logs.
        name: Name of the picture.
        pixels: Its pixels, `(height, width, 3)`.
    """
    step = trainer.global_step
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, None, "HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, _file(name, step, "png"))
        elif callable(log := getattr(logger, "log_image", None)):
            log(key=_plain(name), images=[pixels], step=step)


def _plain(name: str) -> str:
    """A name without the group that only TensorBoard needs, to show it first or last."""
    return name.removeprefix(FIRST).removeprefix(LAST)


def _file(name: str, step: int, kind: str) -> str:
    """A file among the artifacts of MLflow, which would append to one that is there."""
    return f"{_plain(name)}/step{step:06d}.{kind}"
