"""Reuses runs that other experiments have performed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_sdft.errors import SettingError
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
        self._outcomes: dict[str, Outcome] = {}
        for folder in folders:
            if not Path(folder).is_dir():
                raise SettingError(f"reuse={folder!r}: there is no such folder; give the --out of another experiment")
            for file in sorted(Path(folder).rglob("run.json")):
                outcome = Outcome.read(file.parent)
                if outcome is not None:
                    self._outcomes.setdefault(Run.read(file.parent).identity(), outcome)

    def copy(self, run: Run, folder: Path) -> None:
        """Copy the outcome of the same run to a folder that has none; checkpoints and curves stay where they are."""
        outcome = self._outcomes.get(run.identity())
        if outcome is not None and Outcome.read(folder) is None:
            outcome.write(folder)
