"""Checkpoints of modules with adapters: they contain all adapter weights, but not the frozen base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_sdft.errors import CheckpointError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import adapter_weights

__all__ = ["adapters_alone", "check_adapters"]

MODELS = ("policy.", "teacher.policy.")
"""Prefixes of the weights' names, for the student and for a copied teacher."""


def adapters_alone(state: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """The part of a module's state to save: without the frozen weights of the models that training started from.

    Args:
        state: The module's ``state_dict``.
        policy: The module's policy, which has the adapters.
    """
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    return {name: value for name, value in state.items() if name in adapters or not name.startswith(MODELS)}


def check_adapters(state: Mapping[str, Any], policy: Policy) -> None:
    """Refuse a state whose adapter weights are not those of the policy.

    Raises:
        CheckpointError: If weights are missing or unexpected; the message names the first.
    """
    names = {name for name in state if name.startswith(MODELS)}
    adapters = {f"policy.model.{name}" for name in adapter_weights(policy.model)}
    for problem, found in (("lacks", adapters - names), ("has left over", names - adapters)):
        if found:
            raise CheckpointError(
                f"the checkpoint {problem} {len(found)} weights, the first is {min(found)!r}; it was written with "
                "another model, other lora settings or another teacher, so set these as they were"
            )
