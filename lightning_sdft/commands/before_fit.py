"""What ``fit`` settles before it loads a model: micro-batches that fit, and whether the run fits at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_sdft.data.base import DemonstrationDataModule
from lightning_sdft.errors import PolicyError, Refusal
from lightning_sdft.memory import TrainerPlan, fitting, in_gib, room
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.policy.tokenizer import pretrained_source

__all__ = ["settle_micro_batches"]

SMALL = 2**26
"""Size in bytes of weights that fit anywhere, with whatever is computed with them."""


def settle_micro_batches(
    module: CausalLMModule, datamodule: DemonstrationDataModule, trainer: Mapping[str, Any]
) -> None:
    """Choose ``data.micro_batch_size`` if it is not set, and say what the run will take.

    Args:
        module: The module, which has not loaded its models.
        datamodule: Its data.
        trainer: The settings of the trainer.

    Raises:
        PolicyError: If the run takes more memory than there is.
    """
    if _size(module.model) <= SMALL or trainer.get("accumulate_grad_batches", 1) != 1:
        return
    if module.tokenizer.images is not None and datamodule.micro_batch_size:
        return  # the memory of images is not estimated
    try:
        plan = TrainerPlan.of(trainer)
    except PolicyError:  # whoever builds the trainer knows better what it can be
        return
    try:
        memory = room(plan.accelerator, plan.processes)
        found = fitting(module, datamodule, plan, memory)
    except Refusal:
        raise
    except Exception as error:  # an estimate must not keep a run from starting
        rank_zero_warn(f"the memory of the run could not be estimated: {type(error).__name__}: {error}")
        return
    chosen = "" if datamodule.micro_batch_size else " (chosen; data.micro_batch_size sets another)"
    datamodule.micro_batch_size = found.micro_batch_size
    rank_zero_info(
        f"{module.model}: about {in_gib(found.peak)} at the peak of training, of {in_gib(memory.free)} that are free, "
        f"with micro-batches of {found.micro_batch_size}{chosen}"
    )


def _size(model: str) -> float:
    """Size in bytes of what is in a model's folder; infinite if it is elsewhere."""
    folder = Path(str(pretrained_source(model)["pretrained_model_name_or_path"]))
    return sum(each.stat().st_size for each in folder.iterdir() if each.is_file()) if folder.is_dir() else float("inf")
