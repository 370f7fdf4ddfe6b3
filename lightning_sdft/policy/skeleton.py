"""A model without weights, to refuse before they are read what does not go with its architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lightning_sdft.policy.loading import load_model
from lightning_sdft.policy.lora import LoRA, add_adapter
from lightning_sdft.policy.tokenizer import pretrained_source

__all__ = ["check_adapter_fits", "skeleton"]


def skeleton(name: str, trust_remote_code: bool) -> Any:
    """A causal language model on torch's ``meta`` device, which takes neither memory nor time to read.

    Args:
        name: A Hugging Face folder or hub id, or a model of the zoo.
        trust_remote_code: Whether code that comes with the model may be run.

    Returns:
        The model; ``None`` if it cannot be built so: its config is in a GGUF file, or its code computes with weights.

    Raises:
        PolicyError: If the model cannot be loaded for reasons that its config says.
    """
    if "gguf_file" in pretrained_source(name):
        return None
    try:
        with torch.device("meta"):
            return load_model(name, pretrained=False, attention=None, trust_remote_code=trust_remote_code)
    except (NotImplementedError, RuntimeError):  # what meta tensors answer when their numbers are asked for
        return None


def check_adapter_fits(name: str, lora: LoRA, trust_remote_code: bool) -> None:
    """Refuse an adapter that a model cannot have.

    Args:
        name: The model.
        lora: Settings of the adapter.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        PolicyError: If the model has no such layers; the message names those that it has.
    """
    model = skeleton(name, trust_remote_code)
    if model is not None:
        with torch.device("meta"):
            add_adapter(model, replace(lora, base="full"))  # bits are made of numbers, which there are none of
