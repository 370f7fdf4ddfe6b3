"""A Hugging Face causal language model seen as a policy.

This file and :mod:`lightning_sdft.policy.decoding` are the only ones that know the model API of transformers.

Letters: B sequences, N completion tokens of all sequences, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from lightning_sdft.errors import PolicyError
from lightning_sdft.losses.head import Head
from lightning_sdft.policy import lora
from lightning_sdft.policy.decoding import DecodingState, buckets, call_tokens, shared_prefix
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.tokenizer import (
    Tokenizer,
    generation_config,
    load_tokenizer,
    pretrained_source,
    refusing_code,
)
from lightning_sdft.records import TokenSequence

__all__ = ["Policy"]


class Policy(nn.Module):
    """A causal language model as pi(completion | prompt).

    Args:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer.

    Raises:
        PolicyError: If the logits of the model are not what its head makes of its hidden states.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self._check_head()

    @classmethod
    def load(
        cls,
        name: str,
        pretrained: bool = True,
        attention: str | None = None,
        trust_remote_code: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> Policy:
        """Load a model in torch's default dtype (which Lightning sets to what the precision asks for), in train mode.

        Args:
            name: A Hugging Face folder or hub id, a ``.gguf`` file, or ``zoo/laptop``, the model in this package.
            pretrained: Whether to load the weights; otherwise the architecture gets random ones.
            attention: Implementation of attention, as transformers names it; by default SDPA where the model supports
                it (Gemma 2 does not), else eager.
            trust_remote_code: Whether code that comes with the model may be run.
            tokenizer: Its tokenizer, if loaded already.
        """
        tokenizer = tokenizer or load_tokenizer(name, trust_remote_code)
        options: dict[str, Any] = {
            "dtype": torch.get_default_dtype(),
            "attn_implementation": attention,
            "trust_remote_code": trust_remote_code,
        }
        with refusing_code(name):
            if pretrained:
                model = _from_pretrained(pretrained_source(name), options)
            else:
                config = AutoConfig.from_pretrained(**pretrained_source(name), trust_remote_code=trust_remote_code)
                model = AutoModelForCausalLM.from_config(config, **options)
                model.generation_config = generation_config(pretrained_source(name)) or model.generation_config
        if attention is None and getattr(model.config, "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # transformers before 5.21 takes SDPA, which knows no soft cap
        return cls(model.train(), tokenizer)

    @property
    def head(self) -> Head:
        """What turns hidden states into logits."""
        layer, config = self.model.get_output_embeddings(), self.model.config
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
        soft_cap = getattr(config, "final_logit_softcapping", None)
        return Head(layer.weight, layer.bias, soft_cap, scale, lora.low_rank(layer))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def config(self) -> Any:
        """The model's Hugging Face config."""
        return self.model.config

    @property
    def compute_dtype(self) -> torch.dtype:
        """The precision in which it computes here: of its weights, or of autocast where it is on."""
        device = self.device.type
        dtype: torch.dtype = self.model.dtype
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence the model can read, where it has a limit."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    def blocks(self) -> list[nn.Module]:
        """The model's blocks, by which its weights are cut or moved; none where transformers does not name them."""
        names = set(self.model._no_split_modules or ())
        return [module for module in self.model.base_model.modules() if type(module).__name__ in names]

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def hidden(self, sequences: Sequence[TokenSequence], packed: bool = False) -> Tensor:
        """Hidden states at the positions that predict completion tokens.

        Args:
            sequences: What the model reads, each for itself.
            packed: Whether they lie one behind the other in one row, which needs no padding, or in a row each.
                Not every model keeps the sequences of a row apart.

        Returns:
            `(N, D)`, the sequences one after another.
        """
        rows = [torch.tensor(sequence.prompt + sequence.completion) for sequence in sequences]
        positions = [torch.arange(len(row)) for row in rows]
        predicting = [
            (position >= len(sequence.prompt) - 1) & (position < len(position) - 1)
            for sequence, position in zip(sequences, positions, strict=True)
        ]
        if packed:
            # Without a mask, transformers takes a position that does not follow the one before for a new sequence.
            inputs = {"input_ids": torch.cat(rows)[None], "position_ids": torch.cat(positions)[None]}
            predicts = torch.cat(predicting)[None]
        else:
            # Padding on the right needs no mask: no token attends to what comes after it. Attention is faster without.
            inputs = {"input_ids": pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_id)}
            predicts = pad_sequence(predicting, batch_first=True)
        inputs = {name: each.to(self.device) for name, each in inputs.items()}
        hidden: Tensor = self.model.base_model(**inputs, use_cache=False).last_hidden_state[predicts.to(self.device)]
        return hidden

    @torch.enable_grad()
    def check_packing(self) -> None:
        """Refuse a model that does not keep packed sequences apart.

        Raises:
            PolicyError: If a hidden state depends on a token of another sequence, or is not what it is unpacked.
        """
        sequences, embedded = [TokenSequence([1, 2, 3], [4, 5]), TokenSequence([6], [7, 8])], []
        embedding = self.model.get_input_embeddings()
        with evaluating(self.model):
            alone = self.hidden(sequences).detach()
            with embedding.register_forward_hook(lambda *call: embedded.append(call[-1])):
                packed = self.hidden(sequences, packed=True)
        # The gradient of an untrained model shows a leak that is lost in the rounding of its hidden states.
        (dependence,) = torch.autograd.grad(packed[2:, 0].sum(), embedded[0])
        if dependence[0, :5].any() or not torch.allclose(packed, alone, rtol=0, atol=0.1 * alone.abs().max().item()):
            raise PolicyError(
                f"{type(self.model).__name__} does not keep packed sequences apart (a layer carries a state along, or "
                "ignores positions), so losses would be wrong; set packing=false"
            )

    def prefill(self, prompts: Sequence[list[int]]) -> DecodingState:
        """Read prompts, to generate from them.

        Equal prompts are read once, what all of them begin with is read once, and those of similar length together.
        """
        distinct = sorted(dict.fromkeys(map(tuple, prompts)), key=len, reverse=True)
        worth = call_tokens(self.model)
        prefix = shared_prefix(distinct, worth)
        begun = self._read_prompts([prefix]) if prefix else None
        states = [self._read_prompts(bucket, begun) for bucket in buckets(distinct, worth)]
        index = {prompt: row for row, prompt in enumerate(distinct)}
        return DecodingState.merged(states, [index[tuple(prompt)] for prompt in prompts])

    def advance(self, state: DecodingState, tokens: Tensor) -> None:
        """Append one token to each sequence `(B,)` and compute the logits of the next."""
        state.logits = self.head(state.read(tokens[:, None]))

    def _read_prompts(self, prompts: Sequence[Sequence[int]], prefix: DecodingState | None = None) -> DecodingState:
        width, start = len(prompts[0]), 0 if prefix is None else prefix.length
        padded = [[self.tokenizer.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        state = DecodingState(self.model, [width - len(prompt) for prompt in prompts], width, prefix)
        state.logits = self.head(state.read(torch.tensor(padded, device=self.device)[:, start:]))
        return state

    def weights(self) -> dict[str, Tensor]:
        """The weights by their names in the files of a checkpoint; what is tied stands under each of its names.

        Those of a model with an adapter have it in them.
        """
        weights: dict[str, Tensor] = revert_weight_conversion(self.model, lora.merged_weights(self.model))
        return weights

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` read.

        Args:
            folder: Where to write.
            dtype: Precision of the weights in the files; by default what they are in.

        Raises:
            PolicyError: If there is an adapter, whose layers nobody else would know.
        """
        if lora.adapter_weights(self.model):
            raise PolicyError("the policy has an adapter; merge it first, as `lightning-sdft export` does")
        state = self.model.state_dict()
        if dtype is not None:
            # Tied weights stay one tensor, and so are written once.
            cast = {
                tensor.data_ptr(): tensor.to(dtype) if tensor.is_floating_point() else tensor
                for tensor in state.values()
            }
            state = {name: cast[tensor.data_ptr()] for name, tensor in state.items()}
        self.model.save_pretrained(folder, state_dict=state)
        if dtype is not None:  # transformers writes the model's precision, in which readers would load the weights
            config = copy.deepcopy(self.model.config)
            config.dtype = dtype
            config.save_pretrained(folder)
        self.tokenizer.hugging_face.save_pretrained(folder)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Policy:
        """Cast no float32 buffers: rotary frequencies in bfloat16 would misplace tokens far from the start.

        And no adapters: in bfloat16 a small update rounds to nothing.
        """
        buffers = (buffer for buffer in self.buffers() if buffer.dtype == torch.float32)
        exact = {id(tensor): tensor for tensor in (*buffers, *lora.adapter_weights(self.model).values())}

        def apply(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return tensor.to(applied.device) if id(tensor) in exact and applied.dtype != tensor.dtype else applied

        super()._apply(apply, *args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def _check_head(self) -> None:
        tokens = torch.tensor([[self.tokenizer.end_id, self.tokenizer.pad_id]], device=self.device)
        with evaluating(self.model):
            expected = self.model(input_ids=tokens, use_cache=False).logits.float()
            logits = self.head(self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state).float()
        if not torch.allclose(logits, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item()):
            raise PolicyError(
                f"{type(self.model).__name__} makes logits of hidden states in a way this package does not know (there "
                "is more than a bias, a scale and a soft cap), so its losses would be wrong; please report the model"
            )


def _from_pretrained(source: dict[str, str], options: dict[str, Any]) -> Any:
    """Load weights; those of a GGUF file as dense ones, which can be trained and saved like any others."""
    if "gguf_file" not in source:
        return AutoModelForCausalLM.from_pretrained(**source, **options)
    if hasattr(transformers, "GgufConfig"):  # newer releases of transformers leave the weights packed unless told
        options = {**options, "quantization_config": transformers.GgufConfig(dequantize=True)}
    model: Any = AutoModelForCausalLM.from_pretrained(**source, **options)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model
