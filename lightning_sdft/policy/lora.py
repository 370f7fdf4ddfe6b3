"""LoRA: low-rank adapters in a frozen model.

Only this file and :mod:`lightning_sdft.policy.adapter_export` use PEFT. The model keeps its class, but some of its
layers are replaced by PEFT's, which hold adapters by name: the *student*'s, which is trained, and in some runs the
*teacher*'s. Both share one copy of the model's own weights.

[1] Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, https://arxiv.org/abs/2106.09685
[2] Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023, https://arxiv.org/abs/2312.03732
[3] Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023, https://arxiv.org/abs/2305.14314

Letters: r rank, D width, V vocabulary.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_sdft.errors import PolicyError, SettingError
from lightning_sdft.policy.images import TOWER
from lightning_sdft.policy.quantized import Base, QuantizedLinear, quantize_
from lightning_sdft.settings import Count, Fraction, check_ranges

__all__ = [
    "STUDENT",
    "TEACHER",
    "LoRA",
    "adapted_layers",
    "adapter_state",
    "adapter_weights",
    "add_adapter",
    "base_layer",
    "check_installed",
    "copied_modules",
    "low_rank",
    "using_adapter",
]

STUDENT, TEACHER = "student", "teacher"
"""Names of the adapters, which also appear in the names of their weights."""

HOLDERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "modules_to_save")
"""Attributes in which PEFT's layers hold the weights of adapters, by the adapter's name."""


@dataclass(frozen=True)
class LoRA:
    """Train a low-rank adapter instead of the model [1]: `W x + alpha / rank * B A x` in place of `W x`.

    A is initialised at random and B with 0. Adapters are in float32, whatever the precision of the model.

    Args:
        rank: Rank r of the adapter.
        alpha: Scale of the adapter, whose output is multiplied by `alpha / rank`.
        target_modules: Layers that get an adapter: ``all-linear`` for every linear layer except the head; a list of
            names or endings of names, such as ``[q_proj, v_proj, lm_head]``; or a regular expression for full names.
        dropout: Dropout probability of the adapter's inputs during training.
        modules_to_save: Endings of the names of modules that are trained in full instead, each as a copy of its own.
            If one of two tied weights is trained, the two are no longer tied.
        rank_stabilized: Whether to multiply the adapter's output by `alpha / sqrt(rank)` instead [2].
        base: How the frozen model under the adapter is stored: ``full``, in the precision of the run; ``nf4``, in 4
            bits a weight (QLoRA [3], extra ``quantized``); ``int8``, in 8. Head, embeddings, norms and
            ``modules_to_save`` stay as they are.

    Raises:
        SettingError: If a value is out of range, or ``target_modules`` is empty or no regular expression.
    """

    rank: Count = 16
    alpha: Count = 32
    target_modules: list[str] | str = "all-linear"
    dropout: Fraction = 0.0
    modules_to_save: Sequence[str] = ()
    rank_stabilized: bool = False
    base: Base = "full"

    def __post_init__(self) -> None:
        check_ranges(LoRA, vars(self))
        if self.base not in get_args(Base):
            raise SettingError(f"base={self.base} of LoRA is none of {', '.join(get_args(Base))}")
        if not self.target_modules:
            raise SettingError("LoRA: target_modules is empty, so nothing would be trained; name layers")
        try:
            re.compile(self.target_modules if isinstance(self.target_modules, str) else "")
        except re.error as error:
            wrong = f"target_modules={self.target_modules!r} is no regular expression ({error})"
            raise SettingError(f"LoRA: {wrong}; correct it, or give names such as [q_proj, v_proj]") from error
        object.__setattr__(self, "modules_to_save", list(self.modules_to_save))  # a tuple would not equal a list


torch.serialization.add_safe_globals([LoRA])  # checkpoints store it, and are loaded with weights_only=True


def check_installed(base: Base) -> None:
    """Refuse to go on without what an adapter over a base needs, all of it in one remedy."""
    if base == "nf4" and None in (find_spec("peft"), find_spec("bitsandbytes")):
        raise PolicyError("lora.base=nf4 needs PEFT and bitsandbytes: pip install 'lightning-sdft[quantized]'")
    if find_spec("peft") is None:
        raise PolicyError("LoRA needs PEFT: pip install 'lightning-sdft[lora]'")


def add_adapter(model: Any, lora: LoRA, name: str = STUDENT, source: str | None = None) -> None:
    """Add an adapter to a model. From then on only the student's adapter is used and trained.

    The student's comes with its base: the model is quantized first, if the settings say so.

    Args:
        model: A Hugging Face causal language model.
        lora: Settings of the adapter.
        name: The adapter's name; add the student's first.
        source: Name of the base model, stored in the adapter's config for users of an exported adapter.

    Raises:
        PolicyError: If PEFT is not installed, or the model cannot have such an adapter.
    """
    check_installed(lora.base)
    # PEFT imports bitsandbytes where it is, which advises to install kernels that are not used.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import LoraConfig, inject_adapter_in_model

    if name == STUDENT and lora.base != "full":
        quantize_(model, lora.base, lora.modules_to_save)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=lora.dropout,
        exclude_modules=TOWER if hasattr(model.base_model, "visual") else None,
        modules_to_save=list(lora.modules_to_save) or None,
        use_rslora=lora.rank_stabilized,
        task_type="CAUSAL_LM",
        base_model_name_or_path=source,
    )
    with warnings.catch_warnings():
        # PEFT warns of a second adapter, of tied and of transposed weights, all of which are intended and handled here.
        warnings.filterwarnings("ignore", module=r"peft\.")
        try:
            inject_adapter_in_model(config, model, name)
        except ValueError as error:  # there is no such layer, or PEFT does not support its type
            wrong = f"target_modules={lora.target_modules!r}: {str(error).partition('. ')[0]}"
            linear = {
                name
                for name, each in model.named_modules()
                if isinstance(each, QuantizedLinear) or type(each).__name__ in ("Linear", "Conv1D")
            }
            raise PolicyError(f"{wrong}; name some of {sorted({name.split('.')[-1] for name in linear})}") from error
    _check_adapter(model, lora)
    for weight in adapter_weights(model, name).values():
        weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    for layer in adapted_layers(model):
        layer._active_adapter = [STUDENT]
        if name == STUDENT and hasattr(layer, "original_module"):
            layer.register_forward_pre_hook(_cast_inputs, with_kwargs=True)
            layer.register_forward_hook(_cast_outputs)
    model.requires_grad_(False)
    for weight in adapter_weights(model, STUDENT).values():
        weight.requires_grad_()


def adapter_weights(model: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """Weights of one adapter, or of all, by their names in the model; each adapter's come in the same order."""
    owners = ((weight, _owner(weight), parameter) for weight, parameter in model.named_parameters())
    return {weight: parameter for weight, owner, parameter in owners if owner is not None and name in (owner, None)}


def clear_adapter_(model: nn.Module, name: str) -> None:
    """Take the effect of an adapter away: of each product the factor that PEFT starts at 0, and copies of modules."""
    copies = dict(model.named_modules())
    for weight, parameter in adapter_weights(model, name).items():
        if ".modules_to_save." in weight:
            layer, rest = weight.split(f".modules_to_save.{name}.")
            parameter.data.copy_(copies[layer].original_module.get_parameter(rest))
        elif ".lora_B." in weight or ".lora_embedding_A." in weight:
            parameter.data.zero_()


def adapter_state(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The weights of one adapter in a state dict, renamed as if they were the student's."""
    own = ((weight.split("."), value) for weight, value in state.items() if _owner(weight) == name)
    return {".".join(STUDENT if part == name else part for part in parts): value for parts, value in own}


def adapted_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that hold adapters."""
    return [module for module in model.modules() if hasattr(module, "adapter_layer_names")]


def copied_modules(model: nn.Module) -> list[str]:
    """Names of the modules that are trained in full, each as a copy of its own."""
    return [name for name, module in model.named_modules() if hasattr(module, "original_module")]


def base_layer(layer: Any) -> Any:
    """The layer without its adapter, if it has one."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


@contextmanager
def using_adapter(layers: Sequence[Any], name: str | None) -> Iterator[None]:
    """Compute with another adapter, or with none, inside this context; afterwards, the previous one is in use again.

    PEFT's own methods for this would also change which weights require gradient.

    Args:
        layers: All layers of the model that hold adapters.
        name: The adapter; ``None`` computes with the model's own weights only.
    """
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def low_rank(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Update of a linear layer's weight by the active adapter, as factors `(V, r)` and `(r, D)`, or ``None``."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    return layer.scaling[name] * layer.lora_B[name].weight, layer.lora_A[name].weight


def _owner(weight: str) -> str | None:
    """The adapter that a weight belongs to, by the weight's name."""
    parts = weight.split(".")
    return next((name for holder, name in pairwise(parts) if holder in HOLDERS), None)


def _check_adapter(model: Any, lora: LoRA) -> None:
    """Reject names that match no module, and dropout on the head, where it would have no effect."""
    adapted = [f".{name}" for name, module in model.named_modules() if hasattr(module, "lora_A")]
    saved = copied_modules(model)
    targets = [] if isinstance(lora.target_modules, str) else lora.target_modules
    unknown = {
        "target_modules": [each for each in targets if not any(name.endswith(f".{each}") for name in adapted)],
        "modules_to_save": [each for each in lora.modules_to_save if not any(name.endswith(each) for name in saved)],
    }
    for argument, names in unknown.items():
        if names:
            raise PolicyError(
                f"{argument}: there is no {names} to train in {type(model).__name__}; name modules that it has, and "
                "each of them only once"
            )
    if lora.dropout and hasattr(model.get_output_embeddings(), "lora_A"):
        raise PolicyError(
            f"dropout={lora.dropout} would not reach the head, because the losses use its weights directly; set "
            f"dropout=0, or leave the head of {type(model).__name__} out of target_modules"
        )


def _cast_inputs(module: Any, args: Any, kwargs: Any) -> Any:
    """Cast the inputs of a module that is trained in full to that module's own precision."""
    own, base = _precisions(module)
    return None if own == base else (_cast(args, own), _cast(kwargs, own))


def _cast_outputs(module: Any, args: Any, outputs: Any) -> Any:
    """Cast its outputs back to the precision of the model."""
    own, base = _precisions(module)
    return None if own == base else _cast(outputs, base)


def _precisions(module: Any) -> list[torch.dtype]:
    """The precisions of the copy in use and of the original module."""
    base = module.original_module
    copy = base if module.disable_adapters else module.modules_to_save[module.active_adapters[0]]
    return [next(each.parameters()).dtype for each in (copy, base)]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(each, dtype) for each in value)
    return {name: _cast(each, dtype) for name, each in value.items()} if isinstance(value, dict) else value
