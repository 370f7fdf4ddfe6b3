"""Who samples rollouts: the interface of engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from lightning_sdft.policy import Policy
from lightning_sdft.records import Rollout, Sampling

__all__ = ["RolloutEngine"]


class RolloutEngine(ABC):
    """Samples rollouts of the policy that trains.

    Engines are dataclasses whose arguments are their settings. What they hold while they run stays out of checkpoints.
    """

    exact: ClassVar[bool] = False
    """Whether rollouts come from the policy's own weights and numerics, so that they need no importance weights."""

    def start(self, policy: Policy, max_tokens: int) -> None:  # noqa: B027  # nothing to do, by default
        """Get ready before training.

        Args:
            policy: Who trains.
            max_tokens: Length of the longest sequence, prompt and completion, that will be asked for.

        Raises:
            RolloutError: If the engine cannot sample what this policy would.
        """

    @abstractmethod
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        max_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        step: int,
    ) -> list[Rollout]:
        """Sample a completion of each prompt, with the weights that the policy has now.

        Args:
            policy: Who trains.
            prompts: Token ids of each prompt.
            max_tokens: Completions are truncated at this length.
            sampling: How tokens are drawn.
            seeds: Seed of each sequence.
            step: Optimizer steps done since training started; the weights are the same as long as it is.

        Raises:
            RolloutError: If that fails.
        """

    def stop(self) -> None:  # noqa: B027
        """Let go of what it holds, after training."""

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init} if is_dataclass(self) else {}
