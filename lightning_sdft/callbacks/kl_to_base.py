"""How far the policy has moved from the base model, which goes with how much it forgets [1].

[1] Shenfeld et al., RL's Razor: Why Online Reinforcement Learning Forgets Less, 2025, https://arxiv.org/abs/2509.04259
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sdft.data.groups import MicroBatch
from lightning_sdft.distributed.sharding import unsharded
from lightning_sdft.losses import ReverseKL, distillation_loss
from lightning_sdft.modules.causal_lm import CausalLMModule
from lightning_sdft.policy import Policy
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.records import Rollout, TokenSequence

__all__ = ["KLToBase", "sequence_kl"]


@torch.no_grad()
def sequence_kl(policy: Policy, base: Policy, sequences: Sequence[TokenSequence]) -> list[float]:
    """`sum_t KL(policy(. | prompt, y_<t) || base(. | prompt, y_<t))` of each sequence's completion y, in nats."""
    with evaluating(policy), evaluating(base):
        hidden, base_hidden = policy.hidden(sequences), base.hidden(sequences)
        weights = torch.ones(len(hidden), device=hidden.device)
        values = distillation_loss(hidden, policy.head, base_hidden, base.head, weights, ReverseKL()).values
    return [part.sum().item() for part in values.split([len(sequence.completion) for sequence in sequences])]


class KLToBase(Callback):
    """Logs ``val/kl_to_base``: KL of the policy from the base model on the policy's own answers to the new task [1].

    It is summed over the tokens of an answer and averaged over the answers of all processes, in nats. A copy of the
    base model in the policy's precision stays in memory, except with LoRA, where the base model is the policy without
    its adapter.

    Args:
        prior: Whether to log ``val/kl_to_base_prior`` too: the same on the policy's answers to prior tasks, such as
            general questions, where moving away from the base model is nothing but forgetting.
    """

    def __init__(self, prior: bool = False) -> None:
        self.prior = prior
        self._base: Policy | None = None
        self._values: dict[bool, list[float]] = {False: [], True: []}
        self._gathered = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the base model, unless it is the policy without its adapter."""
        self._base = cast(CausalLMModule, pl_module).base_policy()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the base model's weights if they are sharded."""
        if self._base is not None:
            self._gathered.enter_context(unsharded(self._base))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compute the KL of the answers of a batch."""
        module = cast(CausalLMModule, pl_module)
        prior = module.graded.sets[dataloader_idx].prior
        if self._base is None or (prior and not self.prior):
            return
        rollouts: list[Rollout] | None = outputs.get("rollouts")
        if rollouts is None:  # answers are not graded
            rollouts = module.answering.respond(module.policy, MicroBatch.of(batch).examples)
        self._values[prior] += sequence_kl(module.policy, self._base, rollouts)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means."""
        self._gathered.close()
        for prior, name in ((False, "val/kl_to_base"), (True, "val/kl_to_base_prior")):
            values, self._values[prior] = self._values[prior], []
            own = torch.tensor([sum(values), len(values)], dtype=torch.float32, device=pl_module.device)
            # Reduces sum and count, because processes have different numbers of responses.
            total, count = trainer.strategy.reduce(own, reduce_op="sum").tolist()
            if count:
                pl_module.log(name, total / count, batch_size=1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release the base model."""
        self._base = None
