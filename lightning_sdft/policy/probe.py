"""Asks a model, after it is loaded, whether this package reads it as the model reads itself.

What a model computes cannot be told from its config. A few forward passes show it, before a wrong loss is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_sdft.errors import PolicyError, Refusal
from lightning_sdft.losses.head import Head
from lightning_sdft.policy.decoding import DecodingState
from lightning_sdft.policy.inference import evaluating
from lightning_sdft.policy.tokenizer import Tokenizer
from lightning_sdft.records import TokenSequence

__all__ = ["Reading", "check_packing", "logits_agree", "post_processing", "probe", "read_alone", "text_tokens"]

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference between logits that should be equal, as a share of the largest logit."""

LARGE = 100.0
"""Size of the logits at which the head is compared: a soft cap that does nothing to small logits shows there."""

SHORT, LONG = 4, 8
"""Number of tokens of the sequences that the model reads; the long one begins with the short one."""


NO_MEMORY = "can't allocate memory"
"""What torch says, in a RuntimeError, if a CPU has too little memory."""


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


@dataclass(frozen=True)
class Reading:
    """What a model makes by itself of a sequence, which it reads alone."""

    tokens: list[int]
    """The sequence, and some tokens that may follow."""
    hidden: Tensor
    """`(N, D)`."""
    logits: Tensor
    """`(N, V)`."""
    enlarged: Tensor | None
    """The logits of the hidden states times ``factor``, `(N, V)`; ``None`` if the model does not call its head."""
    factor: float


@torch.no_grad()
def read_alone(model: Any, tokenizer: Tokenizer) -> Reading:
    """Let a model read a few tokens.

    Raises:
        PolicyError: If it fails.
    """
    tokens = text_tokens(model, tokenizer, LONG)
    inputs = {"input_ids": torch.tensor([tokens[:SHORT]], device=model.device), "use_cache": False}
    outputs: list[Any] = []
    layer = model.get_output_embeddings()
    with _naming(model), evaluating(model):
        with model.base_model.register_forward_hook(lambda *call: outputs.append(call[-1])):
            logits: Tensor = model(**inputs).logits[0]
        output = outputs[-1] if outputs else model.base_model(**inputs)
        hidden: Tensor = output.last_hidden_state[0]
        factor = LARGE / (logits.abs().max().item() or 1.0)
        with _answering(model.base_model, output):  # the layers below the head would do what they have done
            enlarged = _enlarged_logits(model, layer, inputs, factor)
    return Reading(tokens, hidden, logits, enlarged, factor)


@torch.no_grad()
def post_processing(model: Any, reading: Reading) -> tuple[float, float | None]:
    """How a model makes logits of the products of hidden states and head: the scale, and the soft cap if it has one.

    Its config names both, though not every model goes by its config. Which of them it applies shows in its logits, at
    their own size and at one where a soft cap shows.

    Raises:
        PolicyError: If it does neither, or if its logits are not finite.
    """
    scale, cap = _named(model.config.get_text_config())
    layer, own = model.get_output_embeddings(), reading.logits
    if not torch.allclose(own - own, torch.zeros_like(own)):
        raise PolicyError(
            f"the logits of {type(model).__name__} are not finite: its weights are damaged, or {own.dtype} is too "
            "narrow for them"
        )
    states, logits = reading.hidden, [own]
    if reading.enlarged is not None:
        states, logits = torch.cat([states, reading.factor * states]), [own, reading.enlarged]
    for each in dict.fromkeys([(scale, cap), (scale, None), (1.0, cap), (1.0, None)]):
        with _naming(model):
            found = Head(layer.weight, layer.bias, each[1], each[0])(states).split(len(own))
        if all(logits_agree(*pair, model.dtype) for pair in zip(found, logits, strict=True)):
            return each
    raise PolicyError(
        f"{type(model).__name__} makes logits of hidden states in a way this package does not know (with more than a "
        "bias, a scale and a soft cap), so its losses would be wrong; please report the model"
    )


@torch.no_grad()
def probe(policy: Readable, alone: Reading | None = None) -> None:
    """Compare what the policy computes for a few tokens with what its model computes.

    Args:
        policy: The policy.
        alone: What its model makes of a sequence, if it has been asked already.

    Raises:
        PolicyError: If later tokens or other sequences change the logits of a token, or if the model fails.
    """
    alone = alone or read_alone(policy.model, policy.tokenizer)
    with _naming(policy.model), evaluating(policy.model):
        _check_reading(policy, alone)


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
    text = sorted({token for token in tokenizer.known_ids if token < rows} - special)
    text = text or [tokenizer.end_id]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(text), (count,), generator=generator, device="cpu")  # Lightning loads models on the GPU
    return [text[index] for index in drawn.tolist()]


def _named(config: Any) -> tuple[float, float | None]:
    """The scale and the soft cap that a config names as numbers; MPT's scale may be a word, which it does not go by."""
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    found = (getattr(config, name, None) for name in names)
    scale, divisor, cap = (float(each) if isinstance(each, int | float) else None for each in found)
    return scale or 1 / (divisor or 1.0), cap


def _enlarged_logits(model: Any, layer: nn.Module, inputs: dict[str, Any], factor: float) -> Tensor | None:
    """The model's logits `(N, V)` with enlarged hidden states, or ``None`` if it does not call its head as a layer."""
    called: list[bool] = []

    def enlarge(module: nn.Module, states: tuple[Tensor]) -> tuple[Tensor]:
        called.append(True)
        return (factor * states[0],)

    with layer.register_forward_pre_hook(enlarge):
        logits: Tensor = model(**inputs).logits[0]
    return logits if called else None


@contextmanager
def _answering(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return an output without computing it."""
    own = module.__dict__.get("forward")
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def _naming(model: Any) -> Iterator[None]:
    """Give whatever a model fails with an error of this package; that there is too little memory is not its fault."""
    try:
        yield
    except (Refusal, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if NO_MEMORY in str(error):
            raise
        raise PolicyError(
            f"{type(model).__name__} fails on a few tokens ({type(error).__name__}: {error}), so this package cannot "
            "train it; please report the model"
        ) from error


def _check_reading(policy: Readable, alone: Reading) -> None:
    """Compare a sequence with itself beside one that goes on behind it, and with itself read token by token."""
    name, dtype, tokens = type(policy.model).__name__, policy.model.dtype, alone.tokens
    rows = [tokens[:SHORT], tokens]
    sequences = [TokenSequence(row[:1], [*row[1:], tokens[0]]) for row in rows]
    short, long = policy.hidden(sequences).split([len(row) for row in rows])
    beside, continued = policy.head(torch.cat([short, long[:SHORT]])).chunk(2)
    if not logits_agree(continued, beside, dtype):
        raise PolicyError(f"{name} sees the future: its logits depend on later tokens, so losses would be wrong")
    if not logits_agree(beside, alone.logits, dtype):
        raise PolicyError(f"{name} reads a sequence differently beside a longer one, so losses would be wrong")
    last = [SHORT - 1, 1]
    state = policy.prefill([tokens[:place] for place in last])
    policy.advance(state, torch.tensor([tokens[place] for place in last], device=policy.device))
    expected = alone.logits[last]
    for logits in (state.logits, expected):
        logits[:, policy.unnamed_ids.to(logits.device)] = 0
    if not logits_agree(state.logits, expected, dtype):
        raise PolicyError(f"{name} continues a sequence differently beside a longer one, so rollouts would be wrong")
