"""How a model reads when it is not trained: without dropout, and without casting its weights again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["casting_once", "evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode (no dropout), and every part of it back to its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def casting_once(device: torch.device) -> Iterator[None]:
    """Under autocast, cast each weight once, and not for every token, as Lightning's autocast does.

    It is for reading without gradient, and for weights that are trained, the only ones that autocast keeps.

    Args:
        device: Where is read.
    """
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=True):
        yield
    torch.clear_autocast_cache()  # for training they would have to be cast with gradient
