"""Reuses runs that other experiments have performed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.run import Outcome, Run

__all__ = ["Finished"]


class Finished:
    """Runs that have ended well, in the folders of other experiments.

    Args:
        folders: Folders of experiments, or folders that contain several.

    Raises:
        SettingError: If one of them does not exist.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._found: dict[str, Path] = {}
        for folder in folders:
            if not Path(folder).is_dir():
                raise SettingError(f"reuse={folder!r}: there is no such folder; give the --out of another experiment")
            for file in sorted(Path(folder).rglob("run.json")):
                if Outcome.read(file.parent) is not None:
                    self._found.setdefault(Run.read(file.parent).identity(), file.parent)

    def copy(self, run: Run, folder: Path) -> None:
        """Copy outcome and details of the same run to a folder that has none; checkpoints stay where they are."""
        found = self._found.get(run.identity())
        outcome = None if found is None else Outcome.read(found)
        if found is not None and outcome is not None and Outcome.read(folder) is None:
            Details.read(found).write(folder)
            outcome.write(folder)
