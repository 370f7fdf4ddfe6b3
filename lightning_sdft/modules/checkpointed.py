"""What the checkpoints of a module hold, and what they are held to when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from lightning.pytorch import LightningModule

from lightning_sdft import checkpoint as checkpoints
from lightning_sdft.distributed.readable import only_data
from lightning_sdft.policy import LoRA, Policy
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.trust import trusting

__all__ = ["CheckpointedModule"]


class CheckpointedModule(LightningModule):
    """A module with a policy, whose checkpoints say what they are from and hold data alone."""

    model: str
    lora: LoRA | None
    tokenizer: Tokenizer
    policy: Policy

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which method the checkpoint is from, and the date in its prompts, unless weights are not finite."""
        checkpoints.check_finite_weights(self)
        about = (type(self).__name__, self.model, self.lora, self.tokenizer.date)
        checkpoint["lightning_sdft"] = checkpoints.describe_method(*about)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method or adapter, or one that training cannot resume from."""
        checkpoints.check_method(checkpoint, type(self).__name__, self.lora, self._trainer)
        self.tokenizer.date = checkpoint["lightning_sdft"].get("date")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Load as Lightning does, but run no code from the checkpoint: give ``trust_remote_code`` and trust again."""
        options = {"trust_remote_code": False, **options, "weights_only": True, **checkpoints.builder(checkpoint_path)}
        with trusting(), only_data(checkpoint_path):
            return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state; with an adapter, it leaves out the weights of the models that training started from."""
        state = super().state_dict(*args, **kwargs)
        return state if self.lora is None else checkpoints.adapters_alone(state, self.policy)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state; with an adapter, it must hold all the adapter's weights and no others.

        Raises:
            CheckpointError: If it lacks weights, or holds others.
        """
        with checkpoints.fitting(state_dict, self, getattr(self._trainer, "ckpt_path", None)):
            if self.lora is None or not hasattr(self, "policy"):  # no models, as in a launching process
                return super().load_state_dict(state_dict, strict, assign)
            checkpoints.check_adapters(state_dict, self.policy)
            return super().load_state_dict(state_dict, False, assign)._replace(missing_keys=[])
