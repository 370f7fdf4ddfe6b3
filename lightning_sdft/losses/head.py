"""The output head: what turns hidden states into logits.

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
    """What turns hidden states into logits: `soft_cap(scale * (hidden @ (weight + up @ down).T + bias))`.

    Args:
        weight: Output embedding, `(V, D)`.
        bias: Output bias, `(V,)`.
        soft_cap: Logits are squashed into (-soft_cap, soft_cap) by tanh (Gemma 2).
        scale: Factor on the logits (Cohere, Granite).
        low_rank: What an adapter adds to the weight, as factors up `(V, r)` and down `(r, D)`.
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0
    low_rank: tuple[Tensor, Tensor] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `(..., V)` of hidden states `(..., D)`, in float32 or, of float64 weights, in float64."""
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
        """The whole head with one weight, on every process, where each has a shard of it.

        Its gradient is averaged over processes.
        """
        weight, bias = _gathered(self.weight), None if self.bias is None else _gathered(self.bias)
        if self.low_rank is not None:
            up, down = map(_gathered, self.low_rank)
            with torch.autocast(weight.device.type, enabled=False):
                weight = weight + up @ down
        return replace(self, weight=weight, bias=bias, low_rank=None)

    def logits(self, products: Tensor) -> Tensor:
        """Logits of the products `hidden @ weight.T`, `(..., V)`; may overwrite them."""
        if self.bias is not None:  # which may exclude tokens by an infinite bias
            products = (products + self.bias).clamp(min=FLOOR)
        if self.scale != 1.0:
            products = products * self.scale
        return products if self.soft_cap is None else self.soft_cap * torch.tanh(products / self.soft_cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """Derivative of the soft cap where it gives these logits, `(..., V)`; `None` for 1 everywhere."""
        return None if self.soft_cap is None else 1 - (logits / self.soft_cap) ** 2


def _gathered(parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    # Each process has the gradient of its own tokens. Their sum over the number of processes is what FSDP makes of the
    # gradients of all other parameters.
    whole = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole
