"""What a checkpoint says about itself: which method and which model it is of, and with which adapter."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy.lora import LoRA

__all__ = ["KEY", "check_method", "check_resumable", "describe_method", "described_lora"]

KEY = "lightning_sdft"
"""Where a checkpoint says it."""


def describe_method(method: str, model: str, lora: LoRA | None = None) -> dict[str, Any]:
    """What a checkpoint says about itself: the method's class, the model training started from, our version, LoRA."""
    about = {"method": method, "model": model, "version": version("lightning-sdft")}
    return about if lora is None else {**about, "lora": asdict(lora)}


def check_method(checkpoint: dict[str, Any], method: str, lora: LoRA | None = None) -> None:
    """Refuse to go on with a checkpoint of another method, or of another adapter.

    Raises:
        CheckpointError: If the checkpoint is of another method or adapter, or not of this package.
    """
    about = checkpoint.get(KEY, {})
    saved = about.get("method")
    if saved != method:
        raise CheckpointError(
            f"the checkpoint was written by {saved or 'something other than lightning_sdft'}, not by {method}; go on "
            f"with that method, or export the checkpoint to a Hugging Face folder and start {method} from it "
            "(model=FOLDER)"
        )
    settings = [None if each is None else replace(each, dropout=0.0) for each in (described_lora(about), lora)]
    if settings[0] != settings[1]:
        raise CheckpointError(
            f"the checkpoint was written with lora={described_lora(about)}, and is to be read with lora={lora}, "
            "where its weights would mean something else; set lora as it was"
        )


def check_resumable(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Refuse to go on training with a checkpoint that has the weights, but not the states beside them.

    Args:
        checkpoint: As it was read.
        trainer: Who has read it; one that does not train needs the weights alone.

    Raises:
        CheckpointError: If a state is missing that training needs.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    lightnings = ["optimizer_states"] if trainer.strategy.lightning_restore_optimizer else []
    missing = [name for name in (*lightnings, "lr_schedulers") if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f"training cannot go on from the checkpoint {str(trainer.ckpt_path)!r}: of it, {' and '.join(missing)} "
            "cannot be had here. With a folder of parts go on with trainer.strategy=fsdp2, which a single process can "
            "do too; with weights alone (save_weights_only) start anew: export them to a Hugging Face folder "
            "(model=FOLDER)"
        )


def described_lora(about: dict[str, Any]) -> LoRA | None:
    """The adapter of a checkpoint, of what it says about itself."""
    return LoRA(**about["lora"]) if "lora" in about else None
