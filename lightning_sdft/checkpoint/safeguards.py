"""The callbacks of every run that keep its checkpoints exact, whatever happens to it."""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_sdft.checkpoint.exact_resume import ExactResume
from lightning_sdft.checkpoint.folder_lock import FolderLock
from lightning_sdft.checkpoint.preemption import Preemption
from lightning_sdft.checkpoint.typed_settings import TypedSettings

__all__ = ["safeguards"]


def safeguards() -> list[Callback]:
    """Settings as typed, exact resume, an orderly end on signals, and a lock on the folders of checkpoints."""
    return [TypedSettings(), ExactResume(), Preemption(), FolderLock()]
