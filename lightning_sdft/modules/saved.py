"""What a checkpoint says about a module, and what it holds of it: without an adapter all weights, else the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from lightning.pytorch.trainer.states import TrainerFn

from lightning_sdft.checkpoint import (
    adapters_alone,
    check_adapters,
    check_method,
    check_training_state,
    describe_method,
)
from lightning_sdft.distributed.readable import only_data
from lightning_sdft.modules.answering import AnsweringModule
from lightning_sdft.policy.lora import LoRA
from lightning_sdft.trust import trusting

__all__ = ["SavedModule"]


class SavedModule(AnsweringModule):
    """A policy that is saved and restored; a subclass says which model it starts from, and whether with an adapter."""

    model: str
    lora: LoRA | None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which method the checkpoint is of."""
        checkpoint["lightning_sdft"] = describe_method(type(self).__name__, self.model, self.lora)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method or adapter, or one that training cannot go on from."""
        check_method(checkpoint, type(self).__name__, self.lora)
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            lightnings = ["optimizer_states"] if trainer.strategy.lightning_restore_optimizer else []
            check_training_state(checkpoint, [*lightnings, "lr_schedulers"], trainer.ckpt_path)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Lightning's, but the checkpoint is data; ``trust_remote_code``, and trust in packages, must be given anew."""
        options = {"trust_remote_code": False, **options, "weights_only": True}
        with trusting(), only_data(checkpoint_path):
            return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state, of a module with an adapter without the models it started from."""
        state = super().state_dict(*args, **kwargs)
        return state if self.lora is None else adapters_alone(state, self.policy)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state, of a module with an adapter one that has all its adapters, and nothing of the models.

        Raises:
            CheckpointError: If it has not, or has more.
        """
        if self.lora is None or "policy" not in self._modules:  # as in the process that launches others
            return super().load_state_dict(state_dict, strict, assign)
        check_adapters(state_dict, self.policy)
        return super().load_state_dict(state_dict, False, assign)._replace(missing_keys=[])
