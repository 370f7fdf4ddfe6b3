"""Running a model without training it: in eval mode, and with weights cast only once under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["casting_once", "evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode (no dropout); afterwards every submodule returns to the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def casting_once(device: torch.device) -> Iterator[None]:
    """Cast each weight once per block under autocast; Lightning disables that cache and recasts for every token.

    Use it only without gradient. It helps for weights that are trained, because autocast caches no others.

    Args:
        device: The device that computes.
    """
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=True):
        yield
    torch.clear_autocast_cache()  # training must not use these casts, which were made without gradient
