"""Reads back a model that was written, and compares what it computes with what was meant to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.loading import load_model
from lightning_sdft.policy.lora import STUDENT, adapter_weights
from lightning_sdft.policy.policy import Policy
from lightning_sdft.policy.probe import logits_agree, text_tokens
from lightning_sdft.policy.quantized import quantize_, stored_as

__all__ = ["check_written_adapter", "check_written_model"]

LENGTH = 12
"""Number of tokens that both models read."""


@torch.no_grad()
def check_written_model(policy: Policy, folder: str | Path, dtype: torch.dtype, trust_remote_code: bool) -> None:
    """Check that transformers reads from a folder the model that was written there.

    Args:
        policy: What was written; its weights are rounded to ``dtype``.
        folder: The folder.
        dtype: Precision of the weights in the files.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        PolicyError: If the logits differ, or if they are not finite in this precision.
    """
    own = policy.model.dtype  # not every model computes in half precision on a CPU
    written = load_model(str(folder), True, None, trust_remote_code, own)
    _compare(policy.to(dtype).to(own), written, folder, dtype)


@torch.no_grad()
def check_written_adapter(policy: Policy, folder: str | Path, dtype: torch.dtype, trust_remote_code: bool) -> None:
    """Check that PEFT reads from a folder the adapter that was written there.

    Args:
        policy: The policy with the adapter, which is rounded to ``dtype``.
        folder: The folder.
        dtype: Precision of the weights in the file.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        PolicyError: If the logits differ, or if they are not finite.
    """
    from peft import PeftModel

    for weight in adapter_weights(policy.model, STUDENT).values():
        weight.copy_(weight.to(dtype))
    base = load_model(policy.model.peft_config[STUDENT].base_model_name_or_path, True, None, trust_remote_code)
    if (stored := stored_as(policy.model)) != "full":
        quantize_(base, stored, policy.model.peft_config[STUDENT].modules_to_save or ())
    _compare(policy, PeftModel.from_pretrained(base, str(folder)), folder, dtype)


def _compare(policy: Policy, written: Any, folder: str | Path, dtype: torch.dtype) -> None:
    """Compare the logits of a few tokens, and of a small image if the models read any."""
    tokens = text_tokens(policy.model, policy.tokenizer, LENGTH)
    inputs = {"input_ids": torch.tensor([tokens])}
    if policy.tokenizer.images is not None:
        inputs = policy.tokenizer.images.sample(policy.config, tokens)
    inputs = {name: each.to(policy.device) for name, each in inputs.items()}
    logits: list[Tensor] = []
    for model in (policy.model, written.to(policy.device)):
        with evaluating(model):
            logits.append(model(**inputs, use_cache=False).logits[0])
    if not logits[0].isfinite().all():
        raise PolicyError(f"the logits of what was written to {folder} are not finite in {dtype}; choose another dtype")
    if not logits_agree(logits[1], logits[0], policy.model.dtype):
        raise PolicyError(
            f"the model that transformers reads from {folder} computes other logits than the one that was written; do "
            "not use the folder, and please report the model"
        )
