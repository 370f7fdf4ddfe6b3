"""``python -m lightning_sdft``: the command line."""

from lightning_sdft.cli import entry_point

entry_point()
