"""Checkpoints of modules with an adapter: they hold the adapters alone, and all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import adapter_weights

__all__ = ["adapters_alone", "check_adapters"]

MODELS = ("policy.", "teacher.policy.")
"""What names of weights of the student and of a copied teacher begin with."""


def adapters_alone(state: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """What a module with an adapter saves of its state: nothing that is in the models it started from.

    Args:
        state: The module's state.
        policy: Its policy.
    """
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    return {name: value for name, value in state.items() if name in adapters or not name.startswith(MODELS)}


def check_adapters(state: Mapping[str, Any], policy: Policy) -> None:
    """Refuse a state that is not of the adapters that the policy has.

    Raises:
        CheckpointError: If weights are missing or left over; the message names the first.
    """
    names = {name for name in state if name.startswith(MODELS)}
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    for problem, found in (("lacks", adapters - names), ("has left over", names - adapters)):
        if found:
            raise CheckpointError(
                f"the checkpoint {problem} {len(found)} weights, the first is {min(found)!r}; it is of another model, "
                "of other lora settings or of another teacher"
            )
