"""Saving a model with its tokenizer in a folder that transformers reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import lora
from lightning_sdft.policy.tokenizer import Tokenizer

__all__ = ["save_model"]


def save_model(model: Any, tokenizer: Tokenizer, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Save a model and its tokenizer; see :meth:`lightning_sdft.policy.Policy.save_pretrained`."""
    if lora.adapter_weights(model):
        raise PolicyError("the policy has an adapter; merge it first, as `lightning-sdft export` does")
    state = model.state_dict()
    if dtype is not None:
        # Keep tied weights one tensor, so that they are written once.
        cast = {
            tensor.data_ptr(): tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in state.values()
        }
        state = {name: cast[tensor.data_ptr()] for name, tensor in state.items()}
    model.generation_config.eos_token_id = tokenizer.served_stop_ids(model.generation_config.eos_token_id)
    model.save_pretrained(folder, state_dict=state)
    if dtype is not None:  # transformers writes the model's own dtype to the config, and loading would use that
        config = copy.deepcopy(model.config)
        config.dtype = dtype
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
