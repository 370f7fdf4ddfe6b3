"""What other packages say that does not concern our users, and where the rest of it goes."""

from __future__ import annotations

import logging
import re
import sys
import warnings

from transformers.utils.logging import disable_progress_bar

__all__ = ["keep_quiet"]

WARNINGS = [
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning calls it
    "Found .* module\\(s\\) in eval mode",  # the teacher, which is meant to be
    ".* does not have many workers",  # text is read in no time
    "It is recommended to use `self.log\\(.*sync_dist=True",  # accuracies, which are the same in all processes
    "Total length of `list` across ranks is zero",  # a run without evaluation
    "`ModelCheckpoint\\(monitor='val/(accuracy|loss)'\\)` could not find",  # a run without evaluation
    "Checkpoint directory .* exists and is not empty",  # a run that is resumed
    "IProgress not found",  # a notebook without ipywidgets, whose bars are text
    "The dirpath has changed from",  # a checkpoint that is evaluated, or a folder that was moved
]

LINES = re.compile("litlogger|litmodels|TPU available: False|model summary callbacks")
"""Advice to use other products, machines that nobody has asked for, and a summary that takes another's place."""


class Stderr:
    """What is standard error at the moment: while there is a bar, what puts lines above it.

    Handlers made by an import keep the standard error of that time, and write into the bar.
    """

    def write(self, text: str) -> int:
        """Write text."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Write what is held back."""
        sys.stderr.flush()


def keep_quiet() -> None:
    """Leave out what does not concern users, and let the lines of Lightning go where the bar is not."""
    if not sys.stderr.isatty():  # a bar that cannot move is written again and again
        disable_progress_bar()
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:  # not what tests and notebooks add
                handler.addFilter(_concerns)
                handler.setStream(Stderr())


def _concerns(record: logging.LogRecord) -> bool:
    """Whether a line concerns our users."""
    return LINES.search(record.getMessage()) is None
