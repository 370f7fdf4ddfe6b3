"""The precision in which torch makes new numbers, for as long as something is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["default_precision"]


@contextmanager
def default_precision(precision: torch.dtype) -> Iterator[None]:
    """Make new weights and tables in a precision, and then in the former one again.

    Args:
        precision: The precision, a floating-point dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
