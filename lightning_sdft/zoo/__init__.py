"""Models and a corpus small enough to ship with the package."""

from __future__ import annotations

from pathlib import Path

from lightning_sdft.errors import PolicyError, did_you_mean

__all__ = ["PREFIX", "SHA256", "file", "folder"]

PREFIX = "zoo/"

SHA256 = {
    "zoo/laptop": "83f92a700f575cfdec66a2906f3ba2da69f5f463e2e59463dc3048be38342939",
    "zoo/laptop-small": "16954f9308d8e1bbb4e3a8ccc237ebdada14ad55d6c0337fe3b0bbd130922812",
}
"""SHA-256 of the weights file of each model."""

ROOT = Path(__file__).parent


def folder(name: str) -> Path:
    """Path of a zoo model's Hugging Face folder.

    Args:
        name: Name of the model with the prefix, such as ``zoo/laptop``.

    Raises:
        PolicyError: If there is no such model.
    """
    path = ROOT / name.removeprefix(PREFIX)
    models = sorted(f"{PREFIX}{config.parent.name}" for config in ROOT.glob("*/config.json"))
    if f"{PREFIX}{path.name}" not in models:
        raise PolicyError(f"there is no model {name!r} in the zoo{did_you_mean(name, models)}; there are {models}")
    return path


def file(source: str) -> str:
    """Path of a file or folder of the zoo, such as ``zoo/events/questions.jsonl``; returns other sources unchanged."""
    path = ROOT / source.removeprefix(PREFIX)
    return str(path) if source.startswith(PREFIX) and path.exists() else source
