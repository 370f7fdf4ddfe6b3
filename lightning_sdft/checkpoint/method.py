"""The metadata in a checkpoint: the method and the adapter it was written with, and the model training started from."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_sdft.checkpoint.builders import check_builders
from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy.lora import LoRA

__all__ = ["INSTEAD", "KEY", "check_method", "check_resumable", "describe_method", "described_lora"]

INSTEAD = (
    "; go on with what it was, or train from its weights in a new run: lightning-sdft export --checkpoint FILE, and "
    "model=FOLDER"
)
"""What to do if a run cannot go on from a checkpoint with what it is to train."""

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


def check_method(
    checkpoint: dict[str, Any], method: str, lora: LoRA | None = None, trainer: Trainer | None = None
) -> None:
    """Refuse a checkpoint of another method or adapter, or one that training cannot resume from.

    Args:
        checkpoint: The checkpoint that was read.
        method: The class that reads it.
        lora: The adapter to read it into.
        trainer: The trainer that read it, if there is one; see :func:`check_resumable`.

    Raises:
        CheckpointError: If the method or the adapter differs, or if this package did not write the checkpoint.
    """
    check_builders(checkpoint)
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
    if trainer is not None:
        check_resumable(checkpoint, trainer)


def check_resumable(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Refuse to resume training with another model, or without the states of optimizer and scheduler.

    Args:
        checkpoint: The checkpoint that was read.
        trainer: The trainer that read it; if it does not train, it needs only the weights.

    Raises:
        CheckpointError: If a state that training needs is missing, or training had started from another model.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    before, now = checkpoint.get("hyper_parameters") or {}, trainer.lightning_module.hparams
    for name in ("model", "pretrained", "teacher"):
        old, new = _start(before.get(name)), _start(now.get(name))
        if name in before and not _same(old, new):
            raise CheckpointError(
                f"the checkpoint {str(trainer.ckpt_path)!r} was trained with {name}={old!r}, and this run has "
                f"{name}={new!r}{INSTEAD}"
            )
    lightnings = ["optimizer_states"] if trainer.strategy.lightning_restore_optimizer else []
    missing = [name for name in (*lightnings, "lr_schedulers") if name not in checkpoint]
    if missing:
        raise CheckpointError(
            f"training cannot go on from the checkpoint {str(trainer.ckpt_path)!r}: {' and '.join(missing)} could not "
            "be read from it. If it is a sharded checkpoint, go on with trainer.strategy=fsdp2, which works with a "
            "single process too; if it has only weights (save_weights_only), export them to a Hugging Face folder and "
            "start a new run from that (model=FOLDER)"
        )


def _start(value: Any) -> Any:
    """What training started from: a model's name as it is, and of a teacher's settings its model."""
    return value if isinstance(value, str | bool) else getattr(value, "model", None)


def _same(old: Any, new: Any) -> bool:
    """Whether two names mean the same model: a folder may have moved."""
    return old == new or (isinstance(old, str) and isinstance(new, str) and Path(old).name == Path(new).name)


def described_lora(about: dict[str, Any]) -> LoRA | None:
    """The adapter's settings in a checkpoint's metadata; ``None`` without an adapter."""
    return LoRA(**about["lora"]) if "lora" in about else None
