"""How large a run is: what it trains, reads and writes, and the checkpoints that it will keep."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary
from torch import Tensor

from lightning_sdft.callbacks.run_tokens import training_line
from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.modules import CausalLMModule
from lightning_sdft.progress import size_text

__all__ = ["RunSize", "checkpoint_size"]

ADAMW_STATES = 2
"""AdamW keeps two numbers for each parameter that is trained."""


class RunSize(ModelSummary):
    """Says before training what is trained, how many tokens are read, and how large the checkpoints will be."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it, in the first process."""
        whole, weights = checkpoint_size(pl_module), checkpoint_size(pl_module, weights_only=True)
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.parameters())
        trained = sum(each.numel() for each in parameters if each.requires_grad)
        others = sum(each.numel() for each in parameters) - trained
        beside = f", {_count(others)} beside them are not" if others else ""
        name = getattr(pl_module, "model", "")
        print(f"{type(pl_module).__name__} of {name}: {_count(trained)} parameters are trained{beside}", flush=True)
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(pl_module, CausalLMModule) and isinstance(datamodule, DemonstrationDataModule):
            steps, resumed = trainer.estimated_stepping_batches, trainer.ckpt_path is not None
            print(training_line(pl_module, datamodule, steps, resumed), flush=True)
        for folder, callbacks in _folders(trainer).items():
            sizes = [weights if each.save_weights_only else whole for each in callbacks]
            print(_line(folder, [each.save_top_k for each in callbacks], sizes), flush=True)


def checkpoint_size(module: LightningModule, weights_only: bool = False) -> int:
    """Bytes of a checkpoint of a module that AdamW trains, those of all shards together.

    Args:
        module: The module, with its models.
        weights_only: Whether the checkpoint has no states of the optimizer.
    """
    state = _bytes(module.state_dict().values())
    trained = [] if weights_only else [each for each in module.parameters() if each.requires_grad]
    return state + ADAMW_STATES * _bytes(trained)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _folders(trainer: Trainer) -> dict[str, list[ModelCheckpoint]]:
    """The callbacks that write checkpoints, by their folders."""
    found: dict[str, list[ModelCheckpoint]] = {}
    for each in trainer.checkpoint_callbacks:
        if isinstance(each, ModelCheckpoint) and each.save_top_k:
            found.setdefault(str(each.dirpath), []).append(each)
    return found


def _line(folder: str, kept: list[int], sizes: list[int]) -> str:
    each = " or ".join(dict.fromkeys(map(size_text, sizes)))
    free = f"{size_text(shutil.disk_usage(_existing(Path(folder))).free)} are free"
    if -1 in kept:
        return f"checkpoints: {each} each, none is removed ({free}), in {folder}"
    whole = size_text(sum(count * size for count, size in zip(kept, sizes, strict=True)))
    return f"checkpoints: up to {sum(kept)} of {each} each, {whole} in all ({free}), in {folder}"


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def _count(parameters: int) -> str:
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,}"
