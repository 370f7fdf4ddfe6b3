"""The model that training started from."""

from __future__ import annotations

from typing import Protocol

from lightning.pytorch import Trainer

from lightning_sdft.distributed.sharding import shard_
from lightning_sdft.distributed.strategy import FSDP2Strategy
from lightning_sdft.policy import LoRA, Policy, Tokenizer
from lightning_sdft.policy.adapter_view import AdapterView

__all__ = ["Started", "base_model"]


class Started(Protocol):
    """A module, by what its training started from."""

    model: str
    pretrained: bool
    lora: LoRA | None
    attention: str | None
    trust_remote_code: bool
    tokenizer: Tokenizer
    policy: Policy
    trainer: Trainer


def base_model(module: Started) -> Policy:
    """The model that a module's training started from, frozen, in the policy's precision and on its device.

    With LoRA it is the policy without its adapter, otherwise a copy, which is loaded.
    """
    if module.lora is not None:
        return AdapterView(module.policy, None)
    arguments = (module.model, module.pretrained, module.attention, module.trust_remote_code)
    strategy = module.trainer.strategy
    with module.trainer.precision_plugin.module_init_context():
        base = Policy.load(*arguments, tokenizer=module.tokenizer, probing=False)  # as the student it was probed
    base = base.to(strategy.root_device).requires_grad_(False).eval()
    if isinstance(strategy, FSDP2Strategy):
        shard_(base, strategy.sharding_mesh)
    return base
