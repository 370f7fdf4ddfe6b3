"""Loading a Hugging Face model, or refusing one whose weights are not those that its config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils.peft_utils import find_adapter_config_file

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.images import KINDS
from lightning_sdft.policy.model_files import explaining
from lightning_sdft.policy.tokenizer import generation_config, pretrained_source, refusing_code

__all__ = ["load_model", "tie_as_in"]

NAMED = 5
"""Number of weights that an error names."""


def load_model(
    name: str, pretrained: bool, attention: str | None, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> Any:
    """Load a causal language model.

    Args:
        name: See :meth:`lightning_sdft.policy.Policy.load`, as for the other arguments.
        pretrained: Whether to load the weights.
        attention: Attention implementation.
        trust_remote_code: Whether code that comes with the model may be run.
        dtype: Precision of the weights; by default torch's default dtype.

    Raises:
        PolicyError: If it is an adapter or an encoder-decoder, needs code that is not trusted, or if weights are
            missing, left over, quantized or of another shape, or if files are missing or broken.
    """
    source = pretrained_source(name)
    options: dict[str, Any] = {
        "dtype": dtype or torch.get_default_dtype(),
        "attn_implementation": attention,
        "trust_remote_code": trust_remote_code,
    }
    with explaining(name, source, attention), refusing_code(name), _refusing_other_kinds(name):
        _refuse_adapter(name, source)
        gguf = "gguf_file" in source
        # The config of a GGUF file comes with its weights, which are read once.
        config = (
            None if gguf and pretrained else AutoConfig.from_pretrained(**source, trust_remote_code=trust_remote_code)
        )
        if config is not None and config.is_encoder_decoder:
            raise PolicyError(
                f"{name!r} is an encoder-decoder ({config.model_type}), of which only the decoder would be loaded; "
                "choose a causal language model"
            )
        if pretrained:
            model = _pretrained(name, source, options, config)
        else:
            model = _auto_class(config).from_config(config, **options)
            model.generation_config = generation_config(source) or model.generation_config
    if attention is None and getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # transformers before 5.21 picks SDPA, which ignores the cap
    return model


def tie_as_in(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Untie each weight of a model that differs, in some weights for it, from the one that it is tied to.

    Args:
        model: A model built from a config, which may say that weights are tied that are not.
        weights: The weights that it is to get, by their names in the model.
    """
    for name, other in model.all_tied_weights_keys.items():
        if name in weights and other in weights and not torch.equal(weights[name], weights[other]):
            owner, _, attribute = name.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, attribute, nn.Parameter(getattr(module, attribute).detach().clone()))
    note_ties(model)


def note_ties(model: Any) -> None:
    """Let the config of a model say whether its head is tied to its embedding, so that it is saved as it is."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def _pretrained(name: str, source: dict[str, Any], options: dict[str, Any], config: Any) -> Any:
    """Load a model with its weights; those of GGUF are dequantized, so that they can be trained and saved as others."""
    gguf = "gguf_file" in source
    if gguf and hasattr(transformers, "GgufConfig"):  # newer releases of transformers keep them quantized by default
        options = {**options, "quantization_config": transformers.GgufConfig(dequantize=True)}
    # With weights of another shape ignored, they are named by the report of what was loaded.
    loaded: Any = _auto_class(config).from_pretrained(
        **source, **options, output_loading_info=True, ignore_mismatched_sizes=True
    )
    model, info = loaded
    _refuse_other_weights(name, info)
    _refuse_quantized(name, model)
    if gguf:
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    note_ties(model)
    return model


def _auto_class(config: Any) -> Any:
    """The class of transformers that loads a model: one that also reads images, if it is of such a kind."""
    sees = config is not None and config.model_type in KINDS
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


@contextmanager
def _refusing_other_kinds(name: str) -> Iterator[None]:
    """Turn transformers' list of all causal language models into an error that says that this is none."""
    try:
        yield
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise PolicyError(
            f"{name!r} is no causal language model that transformers knows; choose a model that generates text"
        ) from None


def _refuse_adapter(name: str, source: dict[str, Any]) -> None:
    if "gguf_file" in source:
        return
    folder, local = source["pretrained_model_name_or_path"], source.get("local_files_only", False)
    if find_adapter_config_file(folder, local_files_only=local) is not None:
        raise PolicyError(
            f"{name!r} holds a PEFT adapter, which would not be trained further; merge it into its base model first "
            "(PeftModel.merge_and_unload, then save_pretrained), or name the base model"
        )


def _refuse_other_weights(name: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the config; transformers would make random ones in place of missing ones."""
    kinds = {
        "are missing": sorted(info["missing_keys"]),
        "have no place in it": sorted(info["unexpected_keys"]),
        "have another shape": sorted(str(key[0]) for key in info["mismatched_keys"]),
    }
    wrong = [f"{len(keys)} {said} ({_some(keys)})" for said, keys in kinds.items() if keys]
    if wrong:
        raise PolicyError(
            f"the weights of {name!r} are not those of the model in its config: {', '.join(wrong)}. Correct the names "
            "in the files, or the config"
        )


def _refuse_quantized(name: str, model: nn.Module) -> None:
    """Refuse weights that are integers: they cannot be trained, and other packages compute with them as they like."""
    kinds = {str(each.dtype).removeprefix("torch.") for each in model.parameters() if not each.is_floating_point()}
    if kinds:
        raise PolicyError(
            f"{name!r} holds quantized weights ({', '.join(sorted(kinds))}), which cannot be trained; name the model "
            "that it was made from, and set lora.base=nf4 to train adapters over 4 bits a weight"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
