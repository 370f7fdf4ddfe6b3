"""Callbacks: what happens beside the training step."""

from lightning_sdft.callbacks.ema_teacher import EMATeacher
from lightning_sdft.callbacks.rng_state import RNGState

__all__ = ["EMATeacher", "RNGState"]
