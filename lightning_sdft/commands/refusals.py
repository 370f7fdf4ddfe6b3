"""What Lightning, torch and the operating system refuse, as errors that users can act on.

Only what users cause is translated: other errors are faults of a program, and need their traceback.
"""

from __future__ import annotations

import errno
import re

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_sdft.errors import Refusal, SettingError

__all__ = ["one_line", "refusal"]

NOT_WRITTEN = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS}
"""Why the operating system does not let a file be written, whatever a program does."""

NO_SUCH_CHECKPOINT = re.compile(r'ckpt_path="(best|hpc)"\)` is set but')
VALIDATION = re.compile(r"`val_check_interval` \((\d+)\) must be less than or equal to the number .* batches \((\d+)\)")


def refusal(error: Exception) -> Refusal | None:
    """What a user is to read of an error; ``None`` if it is a fault of a program.

    Args:
        error: What a command raised.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MisconfigurationException):
        return SettingError(one_line(str(error)))
    if isinstance(error, torch.OutOfMemoryError):
        return SettingError(
            f"the device's memory is full ({str(error).split('. ')[0]}); take a smaller data.micro_batch_size, or see "
            "with `lightning-sdft memory` and the same arguments what takes how much, and what helps"
        )
    if isinstance(error, OSError) and error.errno in NOT_WRITTEN:
        return SettingError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror}; name another file or folder, make room, "
            "or get the right to write there"
        )
    if isinstance(error, ValueError) and (found := VALIDATION.search(str(error))):
        return SettingError(
            f"Trainer: val_check_interval={found[1]}, but an epoch has {found[2]} batches; set a smaller one, or "
            "trainer.check_val_every_n_epoch=null to count batches through epochs"
        )
    if isinstance(error, ValueError) and (found := NO_SUCH_CHECKPOINT.search(str(error))):
        return SettingError(f"ckpt_path={found[1]}, but there is none of that kind here; give the path of a checkpoint")
    return None


def one_line(message: str) -> str:
    """A message without the ends of its lines."""
    return re.sub(r"\s*\n\s*", " ", message.strip())
