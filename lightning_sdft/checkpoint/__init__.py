"""Checkpoints: whether they are whole, which method they are of, and how they become policies again."""

from lightning_sdft.checkpoint.adapters import adapters_alone, check_adapters
from lightning_sdft.checkpoint.files import CheckedCheckpointIO, check_whole, load_checkpoint, use_checked_files
from lightning_sdft.checkpoint.method import check_method, check_training_state, describe_method
from lightning_sdft.checkpoint.policies import load_policy
from lightning_sdft.distributed.readable import check_checkpoint_file, check_lightnings, only_data
from lightning_sdft.distributed.sharded_checkpoint import is_sharded, load_sharded, save_sharded
from lightning_sdft.errors import CheckpointError

__all__ = [
    "CheckedCheckpointIO",
    "CheckpointError",
    "adapters_alone",
    "check_adapters",
    "check_checkpoint_file",
    "check_lightnings",
    "check_method",
    "check_training_state",
    "check_whole",
    "describe_method",
    "is_sharded",
    "load_checkpoint",
    "load_policy",
    "load_sharded",
    "only_data",
    "save_sharded",
    "use_checked_files",
]
