"""Export an adapter: merge it into the model's weights, or save it to a folder of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from lightning_sdft.policy.lora import STUDENT, merged_weight

__all__ = ["merge_adapter", "save_adapter"]


@torch.no_grad()
def merge_adapter(model: Any) -> None:
    """Merge the student's adapter into the model's weights, and turn the model into a plain one without adapters."""
    for name, layer in list(model.named_modules()):
        if not hasattr(layer, "adapter_layer_names"):
            continue
        if hasattr(layer, "original_module"):
            plain = layer.modules_to_save[STUDENT].to(next(layer.original_module.parameters()).dtype)
        else:
            plain = layer.get_base_layer()
            weight, merged = merged_weight(layer)
            setattr(plain, weight, nn.Parameter(merged))  # not in place: the weight may be tied
        parent, _, attribute = name.rpartition(".")
        if attribute != "base_layer":  # a wrapper within a wrapper goes with it
            setattr(model.get_submodule(parent), attribute, plain)
    del model.peft_config
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def save_adapter(model: Any, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Save the student's adapter in a folder that ``peft.PeftModel.from_pretrained`` reads.

    Args:
        model: The model that has the adapter.
        folder: Folder to write to.
        dtype: Precision of the weights in the file; by default the adapter's own.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=STUDENT, save_embedding_layers=False)
    state = {f"base_model.model.{name}": weight.to(dtype or weight.dtype) for name, weight in state.items()}
    config = copy.copy(model.peft_config[STUDENT])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(state, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
