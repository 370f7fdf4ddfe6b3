"""Checkpoints: checking that they are intact and of the right method, resuming from one, and loading its policy."""

from lightning_sdft.checkpoint.adapters import adapters_alone, check_adapters
from lightning_sdft.checkpoint.builders import builder
from lightning_sdft.checkpoint.exact_resume import ExactResume
from lightning_sdft.checkpoint.files import CheckedCheckpointIO, check_whole, load_checkpoint, use_checked_files
from lightning_sdft.checkpoint.finite import check_finite_weights
from lightning_sdft.checkpoint.folder_lock import FolderLock
from lightning_sdft.checkpoint.method import check_method, describe_method
from lightning_sdft.checkpoint.policies import load_policy
from lightning_sdft.checkpoint.preemption import Preemption, exit_code
from lightning_sdft.checkpoint.safeguards import safeguards
from lightning_sdft.checkpoint.typed_settings import TypedSettings
from lightning_sdft.checkpoint.weights import fitting

__all__ = [
    "CheckedCheckpointIO",
    "ExactResume",
    "FolderLock",
    "Preemption",
    "TypedSettings",
    "adapters_alone",
    "builder",
    "check_adapters",
    "check_finite_weights",
    "check_method",
    "check_whole",
    "describe_method",
    "exit_code",
    "fitting",
    "load_checkpoint",
    "load_policy",
    "safeguards",
    "use_checked_files",
]
