"""Asks a model, after it is loaded, whether this package reads it as the model reads itself.

What a model computes cannot be told from its config. A few forward passes show it, before a wrong loss is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_sdft.errors import PolicyError, Refusal
from lightning_sdft.losses.head import Head
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import TokenSequence

__all__ = ["check_packing", "logits_agree", "post_processing", "probe", "text_tokens"]

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference between logits that should be equal, as a share of the largest logit."""

LARGE = 100.0
"""Size of the logits at which the head is compared: a soft cap that does nothing to small logits shows there."""

SHORT, LONG = 5, 12
"""Number of tokens of the sequences that the model reads."""


class Readable(Protocol):
    """What is asked of a :class:`lightning_sdft.policy.Policy`."""

    model: Any
    tokenizer: Tokenizer
    unnamed_ids: Tensor

    @property
    def head(self) -> Head:
        """The output head."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def hidden(self, sequences: Sequence[TokenSequence], packed: bool = False) -> Tensor:
        """Hidden states `(N, D)` at the positions that predict completion tokens."""

    def prefill(self, prompts: Sequence[list[int]]) -> DecodingState:
        """Run the model on prompts to generate from them."""

    def advance(self, state: DecodingState, tokens: Tensor) -> None:
        """Append one token to each sequence."""


@torch.no_grad()
def probe(policy: Readable) -> None:
    """Compare what the policy computes for a few tokens with what its model computes.

    Raises:
        PolicyError: If later tokens or other sequences change the logits of a token, or if the model fails.
    """
    tokens = text_tokens(policy.model, policy.tokenizer, SHORT + LONG + 1)
    with _naming(policy.model), evaluating(policy.model):
        _check_reading(policy, tokens)


@torch.no_grad()
def post_processing(model: Any, tokenizer: Tokenizer) -> tuple[float, float | None]:
    """How a model makes logits of the products of hidden states and head: the scale, and the soft cap if it has one.

    Its config names both, though not every model goes by its config. Which of them it applies shows in its logits, at
    their own size and at one where a soft cap shows.

    Raises:
        PolicyError: If it does neither, if its logits are not finite, or if it fails.
    """
    tokens = torch.tensor([text_tokens(model, tokenizer, 2)], device=model.device)
    scale, cap = _named(model.config.get_text_config())
    layer = model.get_output_embeddings()
    with _naming(model), evaluating(model):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0]
        products = Head(layer.weight, layer.bias)
        own: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
        factor = LARGE / (products(hidden).abs().max().item() or 1.0)
        large = _enlarged_logits(model, layer, tokens, factor)
    if not torch.allclose(own - own, torch.zeros_like(own)):
        raise PolicyError(
            f"the logits of {type(model).__name__} are not finite: its weights are damaged, or {own.dtype} is too "
            "narrow for them"
        )
    for each in dict.fromkeys([(scale, cap), (scale, None), (1.0, cap), (1.0, None)]):
        head = replace(products, scale=each[0], soft_cap=each[1])
        pairs = [(head(hidden), own)] if large is None else [(head(hidden), own), (head(factor * hidden), large)]
        if all(logits_agree(ours, theirs, model.dtype) for ours, theirs in pairs):
            return each
    raise PolicyError(
        f"{type(model).__name__} makes logits of hidden states in a way this package does not know (with more than a "
        "bias, a scale and a soft cap), so its losses would be wrong; please report the model"
    )


@torch.enable_grad()
def check_packing(policy: Readable) -> None:
    """Check that the model keeps packed sequences apart.

    Raises:
        PolicyError: If a hidden state depends on a token of another sequence, or differs from the unpacked one.
    """
    sequences, embedded = [TokenSequence([1, 2, 3], [4, 5]), TokenSequence([6], [7, 8])], []
    embedding = policy.model.get_input_embeddings()
    with evaluating(policy.model):
        alone = policy.hidden(sequences).detach()
        with embedding.register_forward_hook(lambda *call: embedded.append(call[-1])):
            packed = policy.hidden(sequences, packed=True)
    # In an untrained model a leak may be too small to see in the hidden states, but the gradient shows it.
    (dependence,) = torch.autograd.grad(packed[2:, 0].sum(), embedded[0])
    if dependence[0, :5].any() or not torch.allclose(packed, alone, rtol=0, atol=0.1 * alone.abs().max().item()):
        raise PolicyError(
            f"{type(policy.model).__name__} does not keep packed sequences apart (a layer carries a state from token "
            "to token, or ignores positions), so losses would be wrong; set packing=false"
        )


def logits_agree(ours: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits `(N, V)` are equal but for rounding in the precision of a model.

    In half precision, a mixture of experts may send a token to another expert by rounding alone; there, the logits of
    half the tokens have to agree.
    """
    difference = (ours.double() - expected.double()).abs().amax(-1)
    worst = difference.median() if dtype.itemsize < torch.float32.itemsize else difference.max()
    limit = TOLERANCE[dtype] * expected.abs().max().item()
    return torch.allclose(worst, torch.zeros_like(worst), rtol=0, atol=limit)


def text_tokens(model: Any, tokenizer: Tokenizer, count: int) -> list[int]:
    """Some token ids that stand for text; a special token may mean an image, or padding."""
    special = {*tokenizer.hugging_face.all_special_ids, *tokenizer.hugging_face.added_tokens_decoder}
    rows = len(model.get_input_embeddings().weight)
    text = sorted({token for token in tokenizer.hugging_face.get_vocab().values() if token < rows} - special)
    text = text or [tokenizer.end_id]
    generator = torch.Generator().manual_seed(0)
    return [text[index] for index in torch.randint(len(text), (count,), generator=generator).tolist()]


def _named(config: Any) -> tuple[float, float | None]:
    """The scale and the soft cap that a config names as numbers; MPT's scale may be a word, which it does not go by."""
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    found = (getattr(config, name, None) for name in names)
    scale, divisor, cap = (float(each) if isinstance(each, int | float) else None for each in found)
    return scale or 1 / (divisor or 1.0), cap


def _enlarged_logits(model: Any, layer: nn.Module, tokens: Tensor, factor: float) -> Tensor | None:
    """The model's logits `(N, V)` with enlarged hidden states, or ``None`` if it does not call its head as a layer."""
    called: list[bool] = []

    def enlarge(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        called.append(True)
        return (factor * inputs[0],)

    with layer.register_forward_pre_hook(enlarge):
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits if called else None


@contextmanager
def _naming(model: Any) -> Iterator[None]:
    """Give whatever a model fails with an error of this package."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        raise PolicyError(
            f"{type(model).__name__} fails on a few tokens ({type(error).__name__}: {error}), so this package cannot "
            "train it; please report the model"
        ) from error


def _check_reading(policy: Readable, tokens: list[int]) -> None:
    """Compare a short and a long sequence, read together, with each by itself, and with another last token."""
    name, dtype = type(policy.model).__name__, policy.model.dtype
    short, long, other = tokens[:SHORT], tokens[SHORT:-1], tokens[-1]
    alone = [_own_logits(policy, each) for each in (short, long)]
    rows = [short, long, [*long[:-1], other]]
    sequences = [TokenSequence(row[:1], [*row[1:], other]) for row in rows]
    first, second, changed = policy.head(policy.hidden(sequences)).split([len(row) for row in rows])
    if not logits_agree(changed[:-1], second[:-1], dtype):
        raise PolicyError(f"{name} sees the future: its logits depend on later tokens, so losses would be wrong")
    if not (logits_agree(first, alone[0], dtype) and logits_agree(second, alone[1], dtype)):
        raise PolicyError(f"{name} reads a sequence differently beside a longer one, so losses would be wrong")
    state = policy.prefill([short[:-1], long[:-1]])
    policy.advance(state, torch.tensor([short[-1], long[-1]], device=policy.device))
    last = torch.stack([own[-1] for own in alone])
    for logits in (state.logits, last):
        logits[:, policy.unnamed_ids.to(logits.device)] = 0
    if not logits_agree(state.logits, last, dtype):
        raise PolicyError(f"{name} continues a sequence differently beside a longer one, so rollouts would be wrong")


def _own_logits(policy: Readable, tokens: list[int]) -> Tensor:
    """The model's own logits `(N, V)` of a sequence by itself."""
    logits: Tensor = policy.model(input_ids=_batch(policy, tokens), use_cache=False).logits[0]
    return logits


def _batch(policy: Readable, tokens: list[int]) -> Tensor:
    return torch.tensor([tokens], device=policy.device)
