"""The state of the random number generators in checkpoints, which Lightning leaves out."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["RNGState"]


class RNGState(Callback):
    """Saves torch's generators of each process, and restores them when training goes on.

    They are restored at the start of training, behind everything that draws from them on the way there (such as the
    iterator of a data loader), so that a resumed run draws what the uninterrupted one would have.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The generators' states, one entry per process."""
        state: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state()
        if not torch.distributed.is_initialized():
            return {"ranks": [state]}
        states: list[dict[str, Any]] = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(states, state)
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._pending = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states of this process, if the checkpoint has them."""
        if self._pending is not None and trainer.global_rank < len(self._pending["ranks"]):
            state = self._pending["ranks"][trainer.global_rank]
            torch.set_rng_state(state["cpu"].cpu())
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"].cpu())
        self._pending = None
