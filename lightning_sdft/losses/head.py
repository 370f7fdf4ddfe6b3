"""The output head and losses on top of it, computed in chunks of tokens with the gradient in the forward pass.

Logits of a batch are the largest tensors of language model training, `(N, V)`. Here a chunk of tokens is projected,
its loss and the loss's gradient with respect to the logits are taken in closed form, the gradient is carried back to
hidden states and head at once, and the chunk is dropped: no `(N, V)` tensor of the whole batch ever exists.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Head", "HeadLoss", "TokenLoss", "TokenLossFunction", "head_loss"]

CHUNK_ELEMENTS = 2**23
"""Default size of a chunk's logits, in elements (32 MiB in float32)."""


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: `soft_cap(scale * (hidden @ weight.T + bias))`.

    Args:
        weight: Output embedding, `(V, D)`.
        bias: Output bias, `(V,)`.
        soft_cap: Logits are squashed into (-soft_cap, soft_cap) by tanh (Gemma 2).
        scale: Factor on the logits (Cohere, Granite).
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `(..., V)` of hidden states `(..., D)`, in float32 or, of float64 weights, in float64."""
        logits = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def backward(self, logits: Tensor, gradient: Tensor) -> Tensor:
        """Carry the gradient `(N, V)` with respect to the logits back to `hidden @ weight.T + bias`, in place."""
        if self.soft_cap is not None:
            gradient *= 1 - (logits / self.soft_cap) ** 2
        return gradient.mul_(self.scale) if self.scale != 1.0 else gradient


@dataclass(frozen=True)
class TokenLoss:
    """The loss of each token of a chunk.

    Args:
        values: `(N,)`.
        gradient: Derivative of each token's value with respect to its logits, `(N, V)`.
        diagnostics: Further quantities per token, each `(N,)`.
    """

    values: Tensor
    gradient: Tensor
    diagnostics: dict[str, Tensor]


class TokenLossFunction(Protocol):
    """A loss per token in closed form."""

    def __call__(self, logits: Tensor, tokens: Tensor) -> TokenLoss:
        """The loss of the tokens with the given logits `(N, V)` and positions in the batch `(N,)`."""


@dataclass(frozen=True)
class HeadLoss:
    """The result of :func:`head_loss`.

    Args:
        loss: `sum(weights * values)`, a scalar that carries the gradient.
        values: Loss of each token, `(N,)`, without gradient; 0 where the weight is 0.
        diagnostics: Further quantities per token, each `(N,)`; 0 where the weight is 0.
    """

    loss: Tensor
    values: Tensor
    diagnostics: dict[str, Tensor]


def head_loss(
    hidden: Tensor, head: Head, weights: Tensor, token_loss: TokenLossFunction, chunk_tokens: int | None = None
) -> HeadLoss:
    """Weighted sum of a loss per token, from hidden states.

    Args:
        hidden: Hidden states, `(N, D)`.
        head: The head that makes logits of them.
        weights: Weight of each token, `(N,)`; tokens of weight 0 are skipped.
        token_loss: The loss.
        chunk_tokens: Tokens whose logits exist at the same time; by default as many as fill 32 MiB, at least 16.
    """
    diagnostics: dict[str, Tensor] = {}
    loss, values = _HeadLossFunction.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head, weights, token_loss, chunk_tokens, diagnostics
    )
    return HeadLoss(loss, values, diagnostics)


class _HeadLossFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        weights: Tensor,
        token_loss: TokenLossFunction,
        chunk_tokens: int | None,
        diagnostics: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        precision = torch.promote_types(weight.dtype, torch.float32)
        values = torch.zeros(len(hidden), dtype=precision, device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden) if needs_hidden else None
        weight_gradient = torch.zeros_like(weight, dtype=precision) if needs_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=precision) if needs_bias and bias is not None else None
        factor = _matrix_product_dtype(weight)
        matrix = weight.to(factor)
        active = weights.nonzero().flatten()
        chunk = chunk_tokens or max(16, CHUNK_ELEMENTS // len(weight))
        for tokens in active.split(chunk):
            chunk_hidden = hidden[tokens]
            logits = head(chunk_hidden)
            result = token_loss(logits, tokens)
            values[tokens] = result.values
            for name, value in result.diagnostics.items():
                diagnostics.setdefault(name, torch.zeros_like(values))[tokens] = value.to(precision)
            gradient = head.backward(logits, result.gradient.mul_(weights[tokens, None]))
            if hidden_gradient is not None:
                hidden_gradient[tokens] = (gradient.to(factor) @ matrix).to(hidden.dtype)
            if weight_gradient is not None:
                weight_gradient += gradient.to(factor).T @ chunk_hidden.to(factor)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(values)
        return (weights.to(precision) * values).sum(), values

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if hidden is None else hidden * loss_gradient.to(hidden.dtype),
            None if weight is None else (weight * loss_gradient).to(weight_dtype),
            None if bias is None else (bias * loss_gradient).to(bias_dtype),
            *[None] * 5,
        )


def _matrix_product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of the products with the head: autocast's where it is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
