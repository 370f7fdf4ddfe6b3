"""Export an adapter: merge it into the model's weights, or save it to a folder of its own."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_sdft.policy.lora import STUDENT, adapter_weights
from lightning_sdft.policy.quantized import QuantizedLinear, dequantize_

__all__ = ["merge_adapter", "merged_weights", "save_adapter"]

WRAPPED = r"(\.base_layer|\.original_module)+\."
"""What PEFT adds to the name of a weight whose layer it wraps, once or several times."""


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights with the student's adapter merged in, under the names they had before it was added."""
    adapters = adapter_weights(model)
    weights = {
        re.sub(WRAPPED, ".", name): weight for name, weight in model.state_dict().items() if name not in adapters
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "original_module"):
            trained = layer.modules_to_save[STUDENT].state_dict()
            weights |= {f"{name}.{key}": weight for key, weight in trained.items()}
        elif hasattr(layer, "adapter_layer_names"):
            attribute, merged = _merged_weight(layer)
            weights[re.sub(WRAPPED, ".", f"{name}.{attribute}")] = merged
    return weights


@torch.no_grad()
def merge_adapter(model: Any) -> None:
    """Merge the student's adapter into the model's weights, and turn the model into a plain one without adapters.

    The weights of a quantized model become the numbers with which it computes.
    """
    for name, layer in list(model.named_modules()):
        if not hasattr(layer, "adapter_layer_names"):
            continue
        if hasattr(layer, "original_module"):
            plain = layer.modules_to_save[STUDENT].to(next(layer.original_module.parameters()).dtype)
        else:
            weight, merged = _merged_weight(layer)
            plain = layer.get_base_layer()
            if isinstance(plain, QuantizedLinear):
                plain = plain.plain()
            setattr(plain, weight, nn.Parameter(merged))  # not in place: the weight may be tied
        parent, _, attribute = name.rpartition(".")
        if attribute != "base_layer":  # a wrapper within a wrapper goes with it
            setattr(model.get_submodule(parent), attribute, plain)
    dequantize_(model)
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


def _merged_weight(layer: Any) -> tuple[str, Tensor]:
    """The weight that the student's adapter of a layer changes, with the adapter merged in, and its name in the layer.

    Usually a linear layer's ``weight``; of experts in one tensor, the name of that tensor.
    """
    name, plain = getattr(layer, "parameter_name", "weight"), layer.get_base_layer()
    base = plain.dequantized(plain.precision) if isinstance(plain, QuantizedLinear) else getattr(plain, name)
    return name, (base + layer.get_delta_weight(STUDENT)).to(base.dtype)
