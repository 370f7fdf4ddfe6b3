"""A Hugging Face causal language model seen as a policy: the only file that knows the model API of transformers.

Letters: B sequences, N completion tokens of all sequences, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from lightning_sdft.losses.head import Head
from lightning_sdft.tokenizer import PolicyError, Tokenizer, generation_config, load_tokenizer, pretrained_source

__all__ = ["DecodingState", "Policy", "TokenSequence", "evaluating"]


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and a completion of it, as token ids."""

    prompt: list[int]
    completion: list[int]


@dataclass
class DecodingState:
    """Where a batch of unfinished sequences stands.

    Args:
        cache: Keys and values of what was read.
        attention_mask: 1 for what was read, 0 for padding, `(B, length)`.
        positions: Position of the next token of each sequence, `(B,)`.
        logits: Logits of the next token, `(B, V)`.
    """

    cache: DynamicCache
    attention_mask: Tensor
    positions: Tensor
    logits: Tensor

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences: row indices `(B',)`."""
        self.cache.batch_select_indices(rows)
        self.attention_mask = self.attention_mask[rows]
        self.positions = self.positions[rows]
        self.logits = self.logits[rows]


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
        if pretrained:
            model = _from_pretrained(pretrained_source(name), options)
        else:
            config = AutoConfig.from_pretrained(**pretrained_source(name), trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_config(config, **options)
            model.generation_config = generation_config(pretrained_source(name)) or model.generation_config
        return cls(model.train(), tokenizer)

    @property
    def head(self) -> Head:
        """What turns hidden states into logits."""
        layer, config = self.model.get_output_embeddings(), self.model.config
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
        return Head(layer.weight, layer.bias, getattr(config, "final_logit_softcapping", None), scale)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence the model can read, where it has a limit."""
        limit: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return limit

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def hidden(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """Hidden states at the positions that predict completion tokens.

        Returns:
            `(N, D)`, the sequences one after another.
        """
        width = max(len(sequence.prompt) + len(sequence.completion) for sequence in sequences)
        tokens = torch.full((len(sequences), width), self.tokenizer.pad_id)
        attention_mask = torch.zeros_like(tokens)
        predicts = torch.zeros_like(tokens, dtype=torch.bool)
        for row, sequence in enumerate(sequences):
            start, length = len(sequence.prompt), len(sequence.prompt) + len(sequence.completion)
            tokens[row, :length] = torch.tensor(sequence.prompt + sequence.completion)
            attention_mask[row, :length] = 1
            predicts[row, start - 1 : length - 1] = True
        backbone = self.model.base_model(
            input_ids=tokens.to(self.device), attention_mask=attention_mask.to(self.device), use_cache=False
        )
        hidden: Tensor = backbone.last_hidden_state[predicts.to(self.device)]
        return hidden

    def prefill(self, prompts: Sequence[list[int]]) -> DecodingState:
        """Read prompts, to generate from them."""
        width = max(map(len, prompts))
        padded = [[self.tokenizer.pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        attention_mask = torch.tensor(mask, device=self.device)
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        state = DecodingState(
            DynamicCache(config=self.model.config), attention_mask, positions[:, -1] + 1, torch.empty(0)
        )
        self._read(state, torch.tensor(padded, device=self.device), positions)
        return state

    def advance(self, state: DecodingState, tokens: Tensor) -> None:
        """Append one token to each sequence `(B,)` and compute the logits of the next."""
        state.attention_mask = torch.nn.functional.pad(state.attention_mask, (0, 1), value=1)
        self._read(state, tokens[:, None], state.positions[:, None])
        state.positions = state.positions + 1

    def _read(self, state: DecodingState, tokens: Tensor, positions: Tensor) -> None:
        output = self.model.base_model(
            input_ids=tokens,
            attention_mask=state.attention_mask,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
        )
        state.logits = self.head(output.last_hidden_state[:, -1])

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` read.

        Args:
            folder: Where to write.
            dtype: Precision of the weights in the files; by default what they are in.
        """
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
        """Cast no float32 buffers: rotary frequencies in bfloat16 would misplace tokens far from the start."""
        exact = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype == torch.float32}
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            cast = self.get_buffer(name)
            if cast.dtype != buffer.dtype:
                owner, _, attribute = name.rpartition(".")
                setattr(self.get_submodule(owner), attribute, buffer.to(cast.device))
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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode (no dropout), and every part of it back to its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
