"""What a run that goes on from a checkpoint makes of its settings: each has its effect, or is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_sdft.checkpoint.method import INSTEAD
from lightning_sdft.errors import CheckpointError
from lightning_sdft.records import Example
from lightning_sdft.settings.trainer import check_trainer

__all__ = ["TypedSettings", "fingerprint", "reschedule", "typed_settings"]

NAMES = {"initial_lr": "learning_rate"}
"""Settings of an optimizer that have another name in a module."""

NOT_TYPED = {"params", "param_names", "lr", "fused", "foreach", "capturable", "differentiable"}
"""What else an optimizer keeps of its parameters: the present rate, which the schedule makes, and how it computes."""


class TypedSettings(Callback):
    """Refuses settings of the trainer that are out of range; when a run goes on, gives new settings their effect.

    Lightning would restore the learning rate, the weight decay and so on from the checkpoint, whatever was typed. A run
    that goes on takes those that it was given, and the log says what has changed. What is trained is not changed
    under way: other training examples or another model are refused.
    """

    def __init__(self) -> None:
        self._data: str | None = None
        self._optimizers: list[list[dict[str, Any]]] = []
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse settings of the trainer that are out of range."""
        if stage == "fit":
            check_trainer(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the optimizers were given, before a checkpoint replaces it."""
        self._data = self._data or _data(trainer)
        self._optimizers = [typed_settings(optimizer) for optimizer in trainer.optimizers]

    def state_dict(self) -> dict[str, Any]:
        """What the run trains on, and its seed."""
        return {"data": self._data, "seed": os.environ.get("PL_GLOBAL_SEED")}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other examples, and say which settings have changed.

        Raises:
            CheckpointError: If the examples differ.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._resumed = True
        self._data = _data(trainer)
        state = checkpoint["callbacks"].get(self.state_key) or {}
        if None not in (self._data, state.get("data")) and self._data != state["data"]:
            raise CheckpointError(
                f"the checkpoint {str(trainer.ckpt_path)!r} was trained on {state['data']}, and this run has "
                f"{self._data}{INSTEAD}"
            )
        before, now = checkpoint.get("hyper_parameters") or {}, pl_module.hparams
        old_data = checkpoint.get("datamodule_hyper_parameters") or {}
        new_data = getattr(getattr(trainer, "datamodule", None), "hparams", {})
        changes = [*_changes(before, now), *_changes(old_data, new_data, "data.")]
        if changes:
            rank_zero_info(f"Training goes on with other settings than before: {', '.join(changes)}.")
        seed = os.environ.get("PL_GLOBAL_SEED")
        if None not in (seed, state.get("seed")) and seed != state["seed"]:
            rank_zero_info(f"seed_everything={seed} has no effect: random numbers go on from seed {state['seed']}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimizers back what they were given."""
        if not self._resumed:
            return
        self._resumed = False
        changed = {}
        for optimizer, typed in zip(trainer.optimizers, self._optimizers, strict=True):
            for group, settings in zip(optimizer.param_groups, typed, strict=True):
                for name, value in settings.items():
                    if name in group and group[name] != value:
                        changed[NAMES.get(name, name)] = f"{group[name]} -> {value}"
                        group[name] = value
        reschedule(trainer)  # in any case: the run may have got another length or warm-up
        if not changed:
            return
        text = ", ".join(f"{name} {change}" for name, change in changed.items())
        rank_zero_info(f"The optimizer goes on with other settings than before: {text}.")


def fingerprint(examples: Sequence[Example]) -> str:
    """The number of examples and the digest of all that is in them, in their order, wherever they were read."""
    digest = hashlib.sha256()
    for example in examples:
        content = {each.name: getattr(example, each.name) for each in fields(example) if each.compare}
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    return f"{len(examples)} examples (sha256 {digest.hexdigest()[:16]})"


def _data(trainer: Trainer) -> str | None:
    """The fingerprint of the training examples; ``None`` without a data module of this package."""
    splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
    return None if splits is None else fingerprint(splits.train)


def typed_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of each group of an optimizer's parameters."""
    return [{name: value for name, value in group.items() if name not in NOT_TYPED} for group in optimizer.param_groups]


def reschedule(trainer: Trainer) -> None:
    """Make the present rates of all schedules of the peak rates."""
    for scheduler in (each.scheduler for each in trainer.lr_scheduler_configs):
        if not isinstance(scheduler, LambdaLR):
            continue
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, (peak, share) in zip(groups, rates, strict=True):
            group["lr"] = peak * share(scheduler.last_epoch)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings that have changed, as text."""
    both = [name for name in before if name in now]
    return [f"{prefix}{name} {before[name]} -> {now[name]}" for name in both if before[name] != now[name]]
