"""The output head, which turns hidden states into logits.

Letters: N tokens, D width, V vocabulary, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from torch.nn.functional import linear

from lightning_sdft.losses.distribution import FLOOR

__all__ = ["Head"]


@dataclass(frozen=True)
class Head:
    """Turns hidden states into logits: `soft_cap(scale * (hidden @ (weight + up @ down).T + bias))`.

    Args:
        weight: Output embedding, `(V, D)`.
        bias: Output bias, `(V,)`.
        soft_cap: Limit of the logits: tanh squashes them into (-soft_cap, soft_cap) (Gemma 2).
        scale: Factor on the logits (Cohere, Granite).
        low_rank: The adapter's update of the weight, as factors up `(V, r)` and down `(r, D)`.
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0
    low_rank: tuple[Tensor, Tensor] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `(..., V)` of hidden states `(..., D)`, in float32, or in float64 if the weights are float64."""
        products = linear(hidden.to(self.weight.dtype), self.weight).to(self.precision)
        if self.low_rank is not None:
            up, down = self.low_rank
            products = products + linear(linear(hidden.to(down.dtype), down), up)
        return self.logits(products)

    @property
    def precision(self) -> torch.dtype:
        """The dtype of the logits."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def gathered(self) -> Head:
        """Gather the shards of the head on every process, and merge the adapter into its weight.

        The gradient is averaged over processes.
        """
        weight, bias = _gathered(self.weight), None if self.bias is None else _gathered(self.bias)
        if self.low_rank is not None:
            up, down = map(_gathered, self.low_rank)
            with torch.autocast(weight.device.type, enabled=False):
                weight = weight + up @ down
        return replace(self, weight=weight, bias=bias, low_rank=None)

    def logits(self, products: Tensor) -> Tensor:
        """Turn the products `hidden @ weight.T`, `(..., V)`, into logits; may overwrite the products."""
        if self.bias is not None:  # a bias of minus infinity excludes a token
            products = (products + self.bias).clamp(min=FLOOR)
        if self.scale != 1.0:
            products = products * self.scale
        return products if self.soft_cap is None else self.soft_cap * torch.tanh(products / self.soft_cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the soft cap at these logits, `(..., V)`; `None` if there is no cap (1 everywhere)."""
        return None if self.soft_cap is None else 1 - (logits / self.soft_cap) ** 2


def _gathered(parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    # Each process computes the gradient of its own tokens. Average them, as FSDP does for all other parameters:
    # `Partial` sums over processes, the hook divides by their number.
    whole = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole
