"""Losses fused with the output head: no `(N, V)` tensor of the whole batch, and gradients from the forward pass.

Let `z = h W^T` be the logits of a token, `l(z)` its loss and `w` its weight. The loss is `L = sum_n w_n l(z_n)`. Every
loss here knows `g_n = dl/dz_n` in closed form, and then

    dL/dh_n = w_n g_n W          dL/dW = sum_n g_n^T (w_n h_n)

So the forward pass works in chunks of tokens. It projects a chunk to logits, overwrites the logits with `g`, computes
the gradients of hidden states and head from it, and reuses the memory for the next chunk. Each model is projected only
once, and the largest tensors are the logits of one chunk and the gradient of the head. The weights are known
beforehand, so the backward pass only multiplies by the incoming gradient. The weights, and everything else that is
constant per token, multiply the narrow `(n, D)` matrices and never the wide `(n, V)` ones.

Two sizes matter. A *chunk* is large enough for efficient matrix products: each product reads the whole head, so with
few tokens it would be limited by memory bandwidth. A *strip* is the part of a chunk whose logits fit in the cache,
because the steps between projection and gradient pass over the logits a dozen times.

Letters: N tokens, D width, V vocabulary; n tokens of a chunk or a strip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.losses.head import Head

__all__ = ["HeadLoss", "Projection", "TokenLoss", "TokenLossFunction", "head_loss"]

CHUNK_ELEMENTS = {"cpu": 24 * 2**20, "accelerator": 2**26}
"""Number of logits in a chunk: 96 MiB on a CPU and 256 MiB on an accelerator, in float32. It does not depend on the
width of the model, because reading the head and the arithmetic of one token both grow as `V D`."""
STRIP_ELEMENTS = {"cpu": 2**17, "accelerator": 2**23}
"""Number of logits in a strip: 512 KiB on a CPU and 32 MiB on an accelerator, in float32."""


@dataclass(frozen=True)
class Projection:
    """Hidden states `(N, D)` and the output head that turns them into logits."""

    hidden: Tensor
    head: Head


@dataclass(frozen=True)
class TokenLoss:
    """The loss of each token of a strip.

    Args:
        values: Loss of each token, `(n,)`.
        gradient: Derivative of each token's loss with respect to its logits, `(n, V)`.
        diagnostics: Other quantities to report per token, each `(n,)`.
    """

    values: Tensor
    gradient: Tensor
    diagnostics: dict[str, Tensor]


TokenLossFunction = Callable[..., TokenLoss]
"""Computes the loss of each token in closed form. It takes the tokens' positions in the batch `(n,)`, the student's
logits `(n, V)` and, if there is a teacher, the teacher's logits `(n, V)`. It may overwrite the logits."""


@dataclass(frozen=True)
class HeadLoss:
    """The result of :func:`head_loss`.

    Args:
        loss: `sum(weights * values)`, a scalar that carries the gradient; it supports one backward pass.
        values: Loss of each token, `(N,)`, without gradient; 0 where the weight is 0.
        diagnostics: Other quantities per token, each `(N,)`; 0 where the weight is 0.
    """

    loss: Tensor
    values: Tensor
    diagnostics: dict[str, Tensor]


def head_loss(
    hidden: Tensor,
    head: Head,
    weights: Tensor,
    token_loss: TokenLossFunction,
    teacher: Projection | None = None,
    chunk_tokens: int | None = None,
) -> HeadLoss:
    """Compute a loss per token from hidden states, and its weighted sum.

    Matrix products take inputs in the dtype of the head, or of autocast if it is on, and give results in float32.

    Args:
        hidden: Hidden states, `(N, D)`.
        head: The output head that turns them into logits.
        weights: Weight of each token, `(N,)`; tokens of weight 0 are skipped.
        token_loss: Computes the loss of each token.
        teacher: Hidden states `(N, D)` and head of a teacher, if the loss takes a teacher's logits too. No gradient
            flows into them. If student and teacher share the head, it is read once for both.
        chunk_tokens: Number of tokens whose logits exist at the same time; by default as many as fill 96 MiB on a CPU
            and 256 MiB on an accelerator, at least 16.
    """
    head = head.gathered()
    if not torch.is_grad_enabled():  # an autograd.Function is asked for gradients all the same
        bias = None if head.bias is None else head.bias.detach()
        hidden, head = hidden.detach(), replace(head, weight=head.weight.detach(), bias=bias)
    if teacher is not None:
        teacher = replace(teacher, head=teacher.head.gathered())
    diagnostics: dict[str, Tensor] = {}
    loss, values = _HeadLossFunction.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, head, weights, token_loss, teacher, chunk_tokens, diagnostics
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
        teacher: Projection | None,
        chunk_tokens: int | None,
        diagnostics: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.zeros_like(hidden) if needs_hidden else None
        weight_gradient = torch.empty_like(weight, dtype=head.precision) if needs_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=head.precision) if needs_bias and bias is not None else None

        active = weights.nonzero().flatten()
        # Weights as small as 1 / N would underflow in float16, so divide by the largest; backward multiplies it back.
        largest = weights.abs().max() if len(active) else weights.new_ones(())
        relative = (weights[active] / largest * head.scale).to(head.precision)
        chunk = min(chunk_tokens or _rows(CHUNK_ELEMENTS, weight, multiple=16), max(len(active), 1))
        strip = _rows(STRIP_ELEMENTS, weight)
        project = _Projector(Projection(hidden, head), teacher, chunk)
        values = torch.zeros(len(hidden), dtype=head.precision, device=hidden.device)
        if weight_gradient is not None and not len(active):
            weight_gradient.zero_()
        for start in range(0, len(active), chunk):
            tokens, factors = active[start : start + chunk], relative[start : start + chunk]
            products = project(tokens)
            gradient = products[0]  # the gradient overwrites the products, strip by strip
            for rows in [slice(first, first + strip) for first in range(0, len(tokens), strip)]:
                logits = head.logits(products[0][rows])
                slope = head.slope(logits)
                others = [teacher.head.logits(products[1][rows])] if teacher is not None else []
                result = token_loss(tokens[rows], logits, *others)
                gradient[rows] = result.gradient if slope is None else result.gradient.mul_(slope)
                # Copy each result at once: small tensors kept between large ones that are freed fragment the memory.
                values[tokens[rows]] = result.values
                for name, diagnostic in result.diagnostics.items():
                    diagnostics.setdefault(name, torch.zeros_like(values))[tokens[rows]] = diagnostic
            if hidden_gradient is not None:
                back = torch.empty_like(hidden[tokens], dtype=head.precision)
                project.student.multiply(gradient, project.student.matrix, back)
                hidden_gradient[tokens] = back.mul_(factors[:, None]).to(hidden.dtype)
            if weight_gradient is not None:
                weighted = hidden[tokens] * factors[:, None]
                project.student.multiply(gradient.T, weighted, weight_gradient, add=start > 0)
            if bias_gradient is not None:
                bias_gradient.addmv_(gradient.T, factors)

        # save_for_backward would keep the gradients alive; here the backward pass can drop the only reference.
        ctx.gradients = (hidden_gradient, weight_gradient, bias_gradient)
        ctx.largest = largest
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(values)
        return (weights.to(values.dtype) * values).sum(), values

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "an earlier backward pass has used up the gradients of this loss; call the loss once per backward pass"
            )
        gradients, ctx.gradients = ctx.gradients, None
        factor = loss_gradient * ctx.largest
        scaled = [
            None if gradient is None else gradient.mul_(factor).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return (*scaled, *[None] * 6)


class _Factor:
    """A head's weight, prepared for matrix products whose results are in a wider precision."""

    def __init__(self, head: Head, precision: torch.dtype) -> None:
        device = head.weight.device.type
        autocast = torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if autocast else head.weight.dtype
        # A GPU can multiply narrow inputs into a wide result. On other devices, round the inputs and store them wide.
        self.stored = self.dtype if device == "cuda" else precision
        self.matrix = head.weight.to(self.dtype).to(self.stored)

    def multiply(self, left: Tensor, right: Tensor, out: Tensor, add: bool = False) -> None:
        """Write the product of two matrices to `out`, or add it to what is there."""
        left, right = (each.to(self.dtype).to(self.stored) for each in (left, right))
        if self.stored == out.dtype:
            torch.addmm(out, left, right, beta=int(add), out=out)
        else:
            torch.addmm(out, left, right, out.dtype, beta=int(add), out=out)


class _Projector:
    """Multiplies the hidden states of student and teacher by their heads, into memory that all chunks share."""

    def __init__(self, student: Projection, teacher: Projection | None, rows: int) -> None:
        self.hidden = [student.hidden] if teacher is None else [student.hidden, teacher.hidden]
        self.student = _Factor(student.head, student.head.precision)
        self.teacher = self.student
        self.shared = teacher is None or teacher.head.weight.data_ptr() == student.head.weight.data_ptr()
        if teacher is not None and not self.shared:
            self.teacher = _Factor(teacher.head, student.head.precision)
        shape = (len(self.hidden) * rows, len(student.head.weight))
        self.products = torch.empty(shape, dtype=student.head.precision, device=student.hidden.device)

    def __call__(self, tokens: Tensor) -> list[Tensor]:
        """Products `(n, V)` at the given positions `(n,)`: the student's, then the teacher's if there is one."""
        hidden = [each[tokens] for each in self.hidden]
        together = self.products[: len(hidden) * len(tokens)]
        products = list(together.tensor_split(len(hidden)))
        if self.shared:
            self.student.multiply(torch.cat(hidden), self.student.matrix.T, together)
        else:
            for factor, rows, out in zip((self.student, self.teacher), hidden, products, strict=True):
                factor.multiply(rows, factor.matrix.T, out)
        return products


def _rows(elements: dict[str, int], weight: Tensor, multiple: int = 1) -> int:
    """Number of tokens whose logits fill that many elements, rounded down to a multiple (at least one)."""
    size = elements.get(weight.device.type, elements["accelerator"])
    return max(size // len(weight) // multiple, 1) * multiple
