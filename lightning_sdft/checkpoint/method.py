"""The metadata in a checkpoint: the method and the adapter it was written with, and the model training started from."""

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
"""Key of the metadata in a checkpoint."""


def describe_method(method: str, model: str, lora: LoRA | None = None, date: str | None = None) -> dict[str, Any]:
    """The metadata to save.

    Args:
        method: The method's class.
        model: The model that training started from.
        lora: The adapter's settings, if there is one.
        date: The date that the chat template writes into prompts, if it writes one.
    """
    about = {"method": method, "model": model, "version": version("lightning-sdft")}
    given = {"lora": None if lora is None else asdict(lora), "date": date}
    return {**about, **{name: value for name, value in given.items() if value is not None}}


def check_method(checkpoint: dict[str, Any], method: str, lora: LoRA | None = None) -> None:
    """Refuse to resume from a checkpoint that was written with another method or adapter.

    Raises:
        CheckpointError: If the method or the adapter differs, or if this package did not write the checkpoint.
    """
    about = checkpoint.get(KEY, {})
    saved = about.get("method")
    if saved != method:
        raise CheckpointError(
            f"the checkpoint was written by {saved or 'something other than lightning_sdft'}, not by {method}; resume "
            f"with that method, or export the checkpoint to a Hugging Face folder and start {method} from it "
            "(model=FOLDER)"
        )
    settings = [None if each is None else replace(each, dropout=0.0) for each in (described_lora(about), lora)]
    if settings[0] != settings[1]:
        raise CheckpointError(
            f"the checkpoint was written with lora={described_lora(about)}, and is to be read with lora={lora}, "
            "where its weights would have another meaning; set lora as it was"
        )


def check_resumable(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Refuse to resume training from a checkpoint that has the weights, but not the optimizer or scheduler states.

    Args:
        checkpoint: The checkpoint that was read.
        trainer: The trainer that read it; if it does not train, it needs only the weights.

    Raises:
        CheckpointError: If a state that training needs is missing.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    lightnings = ["optimizer_states"] if trainer.strategy.lightning_restore_optimizer else []
    missing = [name for name in (*lightnings, "lr_schedulers") if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f"training cannot go on from the checkpoint {str(trainer.ckpt_path)!r}: {' and '.join(missing)} could not "
            "be read from it. If it is a sharded checkpoint, go on with trainer.strategy=fsdp2, which works with a "
            "single process too; if it has only weights (save_weights_only), export them to a Hugging Face folder and "
            "start a new run from that (model=FOLDER)"
        )


def described_lora(about: dict[str, Any]) -> LoRA | None:
    """The adapter's settings in a checkpoint's metadata; ``None`` without an adapter."""
    return LoRA(**about["lora"]) if "lora" in about else None
