"""The notebooks, which stand beside this folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["pages"]

FOLDER = Path(__file__).parents[2] / "notebooks"


def pages() -> dict[str, str]:
    """The notebooks as they are, by the names of their files, and a page that lists them."""
    files = sorted(FOLDER.glob("*.ipynb"))
    found = {f"notebooks/{file.name}": file.read_text(encoding="utf-8") for file in files}
    text = "Each runs in two minutes or less on one core of a CPU; the tests run them."
    lines = ["# Notebooks\n", text, "\n```{toctree}", ":maxdepth: 1\n", *(each.stem for each in files), "```\n"]
    listed = "\n".join(lines)
    return found | {"notebooks/index.md": listed}
