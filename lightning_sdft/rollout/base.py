"""The interface of rollout engines, which sample completions from the policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from lightning_sdft.policy import Policy
from lightning_sdft.records import Rollout, Sampling

__all__ = ["RolloutEngine"]


class RolloutEngine(ABC):
    """Samples rollouts from the policy being trained.

    Engines are dataclasses whose arguments are their settings. Only the settings are pickled or saved in checkpoints.
    """

    exact: ClassVar[bool] = False
    """Whether rollouts are sampled with the policy's own weights and numerics, and so need no importance weights."""

    def problem(self, sampling: Sampling) -> str | None:
        """Why the engine does not sample in this way, or ``None``; asked before anything is loaded."""
        return None

    def start(self, policy: Policy, max_tokens: int) -> None:  # noqa: B027  # nothing to do, by default
        """Prepare the engine before training starts.

        Args:
            policy: The policy being trained.
            max_tokens: Length of the longest sequence, prompt plus completion, that will be requested.

        Raises:
            RolloutError: If the engine cannot sample from this policy.
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
        """Sample a completion of each prompt with the policy's current weights.

        Args:
            policy: The policy being trained.
            prompts: Token ids of each prompt.
            max_tokens: Completions are truncated at this length.
            sampling: Settings of sampling.
            seeds: Random seed of each sequence.
            step: Number of optimizer steps since training started. The weights change only when it does.

        Raises:
            RolloutError: If sampling fails.
        """

    def stop(self) -> None:  # noqa: B027
        """Release the engine's resources after training."""

    def __getstate__(self) -> dict[str, Any]:
        """The settings only, without anything that the engine holds while it runs."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init} if is_dataclass(self) else {}
