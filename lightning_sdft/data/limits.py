"""Limits of an epoch: an optimizer step takes a whole group of micro-batches, or it is not taken."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_info

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.progress import count_text

__all__ = ["whole_groups"]


def whole_groups(trainer: Trainer, epoch: int, micro_batches: int) -> int | float:
    """What ``trainer.limit_train_batches`` must be, so that each epoch ends with a whole group.

    Lightning would step at the end of the epoch on whatever part of a group was there by then. Validations that never
    come are refused here, because Lightning would refuse them when the model is loaded.

    Args:
        trainer: The trainer.
        epoch: Micro-batches in an epoch without a limit.
        micro_batches: Micro-batches in a group.

    Raises:
        DataError: If the limit cuts a group, or the trainer is to step on a changing number of micro-batches.
        SettingError: If there are more batches between validations than in an epoch.
    """
    limit = _limit(trainer, epoch, micro_batches)
    batches, interval = min(epoch, limit) if isinstance(limit, int) else epoch, trainer.val_check_interval
    if isinstance(interval, int) and interval > batches and trainer.check_val_every_n_epoch is not None:
        raise SettingError(
            f"Trainer: val_check_interval={interval}, but an epoch has {count_text(batches, 'batch')}; set a smaller "
            "one, or trainer.check_val_every_n_epoch=null to count batches through epochs"
        )
    return limit


def _limit(trainer: Trainer, epoch: int, micro_batches: int) -> int | float:
    """The same without regard to validations."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set outside of __init__
        # Lightning adds one of its own that changes nothing.
        if isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches():
            raise DataError(
                "GradientAccumulationScheduler would cut the groups of micro-batches that an optimizer step has; leave "
                "it out: data.batch_size is the number of prompts of a step"
            )
    limit = trainer.limit_train_batches
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside of __init__
        return min(int(trainer.fast_dev_run) * micro_batches, epoch)  # type: ignore[attr-defined]
    setting = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
    if isinstance(limit, float):
        if limit == 1.0:
            return limit
        allowed = int(epoch * limit) // micro_batches * micro_batches
        if limit and not allowed:
            raise DataError(
                f"trainer.{setting}={limit} of {epoch} micro-batches is less than one optimizer step of "
                f"{micro_batches}; take a larger share"
            )
        rank_zero_info(f"trainer.{setting}={limit}: an epoch has {allowed // micro_batches} optimizer steps.")
        return allowed
    if limit < epoch and limit % micro_batches:
        below = limit // micro_batches * micro_batches
        fitting = [each for each in (below, below + micro_batches) if each]
        raise DataError(
            f"trainer.{setting}={limit} would end an epoch inside an optimizer step, which has {micro_batches} "
            f"micro-batches; take a multiple of it, such as {' or '.join(map(str, fitting))}"
        )
    return limit
