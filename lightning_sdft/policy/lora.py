"""LoRA: adapters of low rank in a frozen model. This file and :mod:`lightning_sdft.policy.adapter_export` know PEFT.

A model keeps its class; some of its layers are replaced by PEFT's, which hold adapters by name: the *student*'s, which
is trained, and in some runs the *teacher*'s. The weights of the model itself are one copy, whoever computes.

[1] Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, https://arxiv.org/abs/2106.09685
[2] Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023, https://arxiv.org/abs/2312.03732

Letters: r rank, D width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sdft.errors import PolicyError

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
    "merged_weights",
    "using_adapter",
]

STUDENT, TEACHER = "student", "teacher"
"""Names of adapters, and parts of the names of their weights."""

HOLDERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "modules_to_save")
"""Where PEFT's layers hold the weights of adapters, by the adapter's name."""


@dataclass(frozen=True)
class LoRA:
    """Train an adapter of low rank instead of the model [1]: `W x + alpha / rank * B A x` in place of `W x`.

    A starts at random and B at 0. Adapters are in float32, whatever the precision of the model.

    Args:
        rank: Rank of the adapter, r.
        alpha: Scale of the adapter, which counts `alpha / rank` times.
        target_modules: Layers that get an adapter: ``all-linear`` for every linear layer but the head; a list of names
            or ends of names, such as ``[q_proj, v_proj, lm_head]``; or a regular expression for whole names.
        dropout: Share of a layer's inputs that the adapter does not see in training.
        modules_to_save: Ends of the names of modules that are trained whole instead, each in a copy of its own. Tied
            weights come apart where one of them is trained.
        rank_stabilized: Whether the adapter counts `alpha / sqrt(rank)` times [2].

    Raises:
        ValueError: If a value is out of range.
    """

    rank: int = 16
    alpha: int = 32
    target_modules: list[str] | str = "all-linear"
    dropout: float = 0.0
    modules_to_save: Sequence[str] = ()
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if not (self.rank >= 1 and self.alpha > 0 and 0 <= self.dropout < 1 and self.target_modules):
            raise ValueError(
                f"{self}: rank and alpha must be positive, dropout within [0, 1), target_modules not empty"
            )
        object.__setattr__(self, "modules_to_save", list(self.modules_to_save))  # equal settings are equal


torch.serialization.add_safe_globals([LoRA])  # a checkpoint may name it, and is loaded without pickle's freedom


def check_installed() -> None:
    """Refuse to go on without PEFT.

    Raises:
        PolicyError: If it is not installed.
    """
    if find_spec("peft") is None:
        raise PolicyError("LoRA needs PEFT: pip install 'lightning-sdft[lora]'")


def add_adapter(model: Any, lora: LoRA, name: str = STUDENT, source: str | None = None) -> None:
    """Put an adapter into a model, of which the student's adapter alone is trained and used from then on.

    Args:
        model: A Hugging Face causal language model.
        lora: What the adapter is like.
        name: The adapter's name; the student's comes first.
        source: Where the model is from, for those who get the adapter without it.

    Raises:
        PolicyError: If PEFT is not installed, or the model cannot have such an adapter.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=lora.dropout,
        modules_to_save=list(lora.modules_to_save) or None,
        use_rslora=lora.rank_stabilized,
        task_type="CAUSAL_LM",
        base_model_name_or_path=source,
    )
    with warnings.catch_warnings():
        # Of a second adapter, of tied weights and of transposed ones, all of which are meant and taken care of.
        warnings.filterwarnings("ignore", module=r"peft\.")
        try:
            inject_adapter_in_model(config, model, name)
        except ValueError as error:  # there is no such layer, or it is of a kind that PEFT does not know
            raise PolicyError(f"{type(model).__name__} cannot have the adapter {lora}: {error}") from error
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
    """Weights of an adapter, or of all adapters, by their names in the model; those of each in the same order."""
    owners = ((weight, _owner(weight), parameter) for weight, parameter in model.named_parameters())
    return {weight: parameter for weight, owner, parameter in owners if owner is not None and name in (owner, None)}


def adapter_state(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The weights of one adapter among others, by the names that they would have as the student's."""
    own = ((weight.split("."), value) for weight, value in state.items() if _owner(weight) == name)
    return {".".join(STUDENT if part == name else part for part in parts): value for parts, value in own}


def adapted_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that hold adapters."""
    return [module for module in model.modules() if hasattr(module, "adapter_layer_names")]


def copied_modules(model: nn.Module) -> list[str]:
    """Names of the modules that are trained whole, each in a copy of its own."""
    return [name for name, module in model.named_modules() if hasattr(module, "original_module")]


def base_layer(layer: Any) -> Any:
    """The layer itself, or the one that has an adapter."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


@contextmanager
def using_adapter(layers: Sequence[Any], name: str | None) -> Iterator[None]:
    """Compute with another adapter, or with none, and go back whatever happens.

    PEFT's own switches would also change which weights are trained.

    Args:
        layers: All layers of the model that hold adapters.
        name: The adapter; without one, the model computes what it did before it had adapters.
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
    """What the adapter in use adds to the weight of a linear layer, as factors `(V, r)` and `(r, D)`, or ``None``."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    return layer.scaling[name] * layer.lora_B[name].weight, layer.lora_A[name].weight


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model as if it had the student's adapter in them, by the names that they had before."""
    weights = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): weight
        for name, weight in model.state_dict().items()
        if _owner(name) is None
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "original_module"):
            trained = layer.modules_to_save[STUDENT].state_dict()
            weights |= {f"{name}.{key}": weight for key, weight in trained.items()}
        elif hasattr(layer, "adapter_layer_names"):
            base = layer.get_base_layer().weight
            weights[f"{name}.weight"] = (base + layer.get_delta_weight(STUDENT)).to(base.dtype)
    return weights


def _owner(weight: str) -> str | None:
    """The adapter that a weight belongs to, by the weight's name."""
    parts = weight.split(".")
    return next((name for holder, name in pairwise(parts) if holder in HOLDERS), None)


def _check_adapter(model: Any, lora: LoRA) -> None:
    """Refuse names that mean nothing, and dropout where it would not happen."""
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
                f"{argument}: there is no {names} to train in {type(model).__name__}; name modules of it, and none of "
                "them twice"
            )
    if lora.dropout and hasattr(model.get_output_embeddings(), "lora_A"):
        raise PolicyError(
            f"dropout={lora.dropout} would not reach the head, whose weights losses read in chunks of tokens; set "
            f"dropout=0, or leave the head of {type(model).__name__} out of target_modules"
        )


def _cast_inputs(module: Any, args: Any, kwargs: Any) -> Any:
    """Let a copy that is trained whole compute in its own precision."""
    own, base = _precisions(module)
    return None if own == base else (_cast(args, own), _cast(kwargs, own))


def _cast_outputs(module: Any, args: Any, outputs: Any) -> Any:
    """Let its results be in the precision of the model."""
    own, base = _precisions(module)
    return None if own == base else _cast(outputs, base)


def _precisions(module: Any) -> list[torch.dtype]:
    """The precisions of the copy in use and of what it is a copy of."""
    base = module.original_module
    copy = base if module.disable_adapters else module.modules_to_save[module.active_adapters[0]]
    return [next(each.parameters()).dtype for each in (copy, base)]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(each, dtype) for each in value)
    return {name: _cast(each, dtype) for name, each in value.items()} if isinstance(value, dict) else value
