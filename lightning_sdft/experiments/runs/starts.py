"""Exports trained models that other runs start from."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

from lightning_sdft.commands.export import write_model
from lightning_sdft.experiments.runs.run import Outcome, claimed

__all__ = ["exported"]


def exported(folder: Path, outcome: Outcome) -> Path:
    """The evaluated model of a run as a Hugging Face folder, which the first call writes."""
    found = folder / "export"
    with claimed(folder):
        if not found.exists():
            unfinished = folder / ".export"
            rmtree(unfinished, ignore_errors=True)
            write_model(str(unfinished), checkpoint=outcome.checkpoint)
            unfinished.rename(found)
    return found
