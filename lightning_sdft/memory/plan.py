"""The trainer's settings that decide how much memory a run takes: its devices, its precision and its strategy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy

from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.precision import default_precision

__all__ = ["Sharing", "TrainerPlan"]

Sharing = Literal["alone", "ddp", "fsdp2"]

PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "16-true": (torch.float16, None),
    "bf16-true": (torch.bfloat16, None),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
}
"""Maps Lightning's name of a precision to the dtype of the weights and that of products under autocast."""

SHORT = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}


@dataclass(frozen=True)
class TrainerPlan:
    """The trainer's settings that memory depends on.

    Args:
        accelerator: Whether the run is on an accelerator, and not on the CPU.
        processes: Number of processes that train together, one per device.
        sharing: How they share the weights: each has all of them (``ddp``), or a shard (``fsdp2``).
        replicas: Number of groups of processes under ``fsdp2``, each of which holds all the weights.
        precision: Lightning's name of the precision.
        teacher_follows: Whether a callback updates the teacher.
        evaluates: Whether there is evaluation during training.
        compares_with_base: Whether a callback needs the model that training started from.
    """

    accelerator: bool = False
    processes: int = 1
    sharing: Sharing = "alone"
    replicas: int = 1
    precision: str = "32-true"
    teacher_follows: bool = False
    evaluates: bool = False
    compares_with_base: bool = False

    @classmethod
    def of(cls, trainer: Mapping[str, Any], processes: int | None = None) -> TrainerPlan:
        """Read the arguments of a trainer, whose devices this machine need not have.

        Args:
            trainer: Arguments of Lightning's trainer.
            processes: Number of processes, if the arguments leave it to the machine.

        Raises:
            PolicyError: If the number of processes cannot be found out, or if precision or strategy is unknown.
        """
        accelerator = _is_accelerator(trainer.get("accelerator") or "auto")
        count = processes or _devices(trainer.get("devices") or "auto", accelerator) * int(
            trainer.get("num_nodes") or 1
        )
        precision = str(trainer.get("precision"))
        precision = SHORT.get(precision, precision)
        if precision not in PRECISIONS:
            raise PolicyError(f"memory knows no precision {precision!r}; it knows {', '.join(PRECISIONS)}")
        strategy = trainer.get("strategy") or "auto"
        given = trainer.get("callbacks") or []
        callbacks = [type(each).__name__ for each in given]
        return cls(
            accelerator,
            count,
            _sharing(strategy) if count > 1 else "alone",
            getattr(strategy, "replicas", 1),
            precision,
            "EMATeacher" in callbacks or "GatedTeacher" in callbacks,
            trainer.get("limit_val_batches") != 0,  # 0 also switches the sanity check off
            "KLToBase" in callbacks
            or any(getattr(each, "reset_every", None) for each in trainer.get("callbacks") or []),
        )

    @property
    def parts(self) -> int:
        """Into how many shards each weight is split."""
        return self.processes // self.replicas if self.sharing == "fsdp2" else 1

    def loading(self) -> AbstractContextManager[None]:
        """Create weights in the precision of the plan."""
        return default_precision(PRECISIONS[self.precision][0])

    def computing(self) -> torch.autocast:
        """Compute in the precision of the plan, as Lightning does."""
        narrow = self.product_precision
        return torch.autocast("cpu", narrow or torch.bfloat16, enabled=narrow is not None, cache_enabled=False)

    @property
    def weight_precision(self) -> torch.dtype:
        """The precision of the weights."""
        return PRECISIONS[self.precision][0]

    @property
    def product_precision(self) -> torch.dtype | None:
        """The precision of matrix products under autocast."""
        return PRECISIONS[self.precision][1]


def _is_accelerator(accelerator: Any) -> bool:
    if accelerator == "auto":
        return torch.accelerator.is_available()
    return bool(accelerator != "cpu")


def _devices(devices: Any, accelerator: bool) -> int:
    if isinstance(devices, str) and "," in devices:
        devices = [each for each in devices.split(",") if each.strip()]
    if isinstance(devices, list):
        return len(devices)
    count = -1 if devices == "auto" else int(devices)
    if count > 0:
        return count
    if not accelerator:
        return 1
    found = torch.accelerator.device_count()
    if not found:
        raise PolicyError(
            f"trainer.devices={devices} leaves their number to the machine, and here are none; give --processes"
        )
    return found


def _sharing(strategy: Any) -> Sharing:
    if isinstance(strategy, FSDP2Strategy) or strategy == "fsdp2":
        return "fsdp2"
    if isinstance(strategy, DDPStrategy) or str(strategy) == "auto" or str(strategy).startswith("ddp"):
        return "ddp"
    raise PolicyError(f"memory knows no strategy {strategy!r}; it knows auto, ddp and fsdp2")
