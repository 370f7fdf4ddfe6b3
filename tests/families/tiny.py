"""Tiny random models of every causal family of transformers, made from the defaults of its config."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.conftest import END, STOP_IDS, VOCABULARY

__all__ = ["FAMILIES", "NotBuiltError", "tiny"]

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""The causal families, by model type."""

LARGEST = 20_000_000
"""Number of parameters above which a model is not tiny."""

LAYERS, HEADS = 2, 4

NAMES: tuple[tuple[Any, str], ...] = (
    (len(VOCABULARY), "vocab_size vocab_size_per_layer_input"),
    (32, "hidden_size d_model n_embd dim model_dim word_embed_proj_dim embedding_size embed_dim"),
    (48, "hidden_dim intermediate_size ffn_dim d_ff n_inner ffn_hidden_size d_inner encoder_ffn_dim decoder_ffn_dim"),
    (48, "dff ff_hidden_size"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers"),
    (HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"),
    (HEADS, "attention_heads num_attn_heads"),
    (HEADS // 2, "num_key_value_heads n_kv_heads num_kv_heads"),
    (8, "head_dim kv_channels qk_head_dim v_head_dim qk_rope_head_dim qk_nope_head_dim rotary_dim swa_head_dim"),
    (8, "global_head_dim attention_head_size query_pre_attn_scalar"),
    (8, "sliding_window attention_window local_attention_window window_size"),
    (16, "q_lora_rank kv_lora_rank hidden_size_per_layer_input moe_intermediate_size expert_ffn_hidden_size"),
    (16, "shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp"),
    (64, "max_position_embeddings n_positions n_ctx max_seq_len seq_length"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts state_size mamba_d_state"),
    (2, "num_experts_per_tok moe_k moe_topk top_k_experts num_experts_per_token"),
    (1, "n_group topk_group n_shared_experts moe_num_shared_experts num_shared_experts first_k_dense_replace depth"),
    (0, "pad_token_id num_kv_shared_layers"),
    (1, "bos_token_id"),
    (END, "eos_token_id"),
    (14, "patch_size"),
    (28, "image_size"),
    (0.2, "initializer_range"),
    (0.5, "partial_rotary_factor"),
    (False, "tie_word_embeddings"),
)
"""Sizes and other settings, and the names that configs give them."""

SIZES = {name: size for size, names in NAMES for name in names.split()}

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": HEADS, "num_kv_heads": HEADS},
    {"head_dim": None},
    {"partial_rotary_factor": 1.0},
    {"intermediate_size": 32, "ffn_dim": 32},
    {"num_key_value_heads": HEADS, "head_dim": None, "hidden_size": 64},
    {"head_dim": 16, "hidden_size": 64, "num_key_value_heads": HEADS},
)
"""Other sizes to try where a family cannot have the first ones."""

PER_LAYER = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "attn_layer_indices",
    "block_types",
)
"""Settings that hold an entry for every layer, which are cut to as many layers as there are."""


class NotBuiltError(Exception):
    """A tiny model of the family cannot be made by these sizes."""


def tiny(family: str) -> Any:
    """A tiny random model of a family, whose every weight matters.

    Raises:
        NotBuiltError: If none of the variants gives a model that is small.
    """
    problem = ""
    for variant in VARIANTS:
        try:
            config = _config(family, {**SIZES, **variant})
            with torch.device("meta"):
                count = AutoModelForCausalLM.from_config(config).num_parameters()
            if count > LARGEST:
                problem = problem or f"{count:,} parameters"
                continue
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with torch.no_grad():
                model(input_ids=torch.tensor([[7, 8, 9]]), use_cache=False)
        except Exception as error:  # whatever a family says of sizes that it cannot have
            problem = problem or f"{type(error).__name__}: {error}".split("\n")[0][:160]
            continue
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.generation_config.eos_token_id = STOP_IDS
        return model
    raise NotBuiltError(problem)


def _config(family: str, sizes: dict[str, Any]) -> Any:
    """The config of a family with these sizes, also in its parts."""
    kind = type(AutoConfig.for_model(family))
    return kind(**_arguments(kind, sizes))


def _arguments(kind: type[PreTrainedConfig], sizes: dict[str, Any]) -> dict[str, Any]:
    defaults = kind().to_dict()
    named = {*defaults, *inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    parts = {name: _arguments(part, sizes) for name, part in kind.sub_configs.items() if _is_config(part)}
    own = {name: value for name, value in sizes.items() if name in named and not isinstance(defaults.get(name), list)}
    layers = {name: defaults[name][:LAYERS] for name in PER_LAYER if isinstance(defaults.get(name), list)}
    return {**own, **layers, **parts}


def _is_config(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, PreTrainedConfig) and part is not PreTrainedConfig
