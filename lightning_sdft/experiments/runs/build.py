"""Builds trainer, module and data module from configs, as ``fit`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from lightning_sdft.commands.fit import SDFTCLI, main
from lightning_sdft.experiments.runs.run import Config

__all__ = ["build"]


def build(parts: Sequence[Config], folder: Path) -> SDFTCLI:
    """Parse configs, of which later ones override earlier ones, and build what they name.

    Args:
        parts: The configs.
        folder: Folder to keep them in, as files that ``fit --config 0.yaml --config 1.yaml ...`` takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = []
    for index, part in enumerate(parts):
        file = folder / f"{index}.yaml"
        file.write_text(yaml.safe_dump(part, sort_keys=False), encoding="utf-8")
        arguments += ["--config", str(file)]
    return main(arguments, run=False)
