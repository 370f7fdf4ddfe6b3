"""A frozen model in few bits, over which adapters are trained: QLoRA [1].

Each linear layer but the head stores its weight in 4 or 8 bits and turns it into numbers only while it computes. The
head, embeddings, norms and biases stay as they are: the losses read the head's weight. Training, generation and export
compute with the same numbers, which bitsandbytes' own layers would not do on every device.

[1] Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023, https://arxiv.org/abs/2305.14314
[2] Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale, 2022,
    https://arxiv.org/abs/2208.07339

Letters: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy.precision import default_precision

__all__ = ["BASES", "Base", "Int8Linear", "NF4Linear", "QuantizedLinear", "dequantize_", "quantize_", "stored_as"]

Base = Literal["full", "nf4", "int8"]

BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share one of their own, as in [1]."""


class QuantizedLinear(nn.Linear, ABC):
    """A frozen linear layer whose weight is stored in few bits.

    Args:
        layer: The layer whose weight is taken, on the device that computes.
    """

    base: Base

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.precision = layer.weight.dtype
        self.bias = layer.bias

    @abstractmethod
    def dequantized(self, precision: torch.dtype) -> Tensor:
        """The weight as numbers, `(O, I)`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply inputs `(..., I)` by the weight, in their precision or that of autocast."""
        device = inputs.device.type
        if torch.is_autocast_enabled(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        products = self.products(inputs)
        return products if self.bias is None else products + self.bias.to(products.dtype)

    def products(self, inputs: Tensor) -> Tensor:
        """Inputs times the weight, without the bias."""
        product: Tensor = _Product.apply(inputs, self)  # type: ignore[no-untyped-call]
        return product

    def plain(self) -> nn.Linear:
        """The same layer with a weight of numbers."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.dequantized(self.precision), requires_grad=False)
        layer.bias = self.bias
        return layer


class NF4Linear(QuantizedLinear):
    """Four bits a weight, for values of a normal distribution, and 8 for the scale of each 64, whose scales are 32 [1].

    The numbers are those that transformers reads with ``BitsAndBytesConfig(load_in_4bit=True,
    bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)``.

    Args:
        layer: See :class:`QuantizedLinear`.

    Raises:
        PolicyError: If bitsandbytes is missing, or does not take weights in this precision.
    """

    base = "nf4"
    absmax: nn.Parameter
    scales: Tensor
    code: Tensor
    offset: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        functional = _functional()
        weight = layer.weight.detach()
        if weight.itemsize > torch.float32.itemsize:
            raise PolicyError(
                f"lora.base=nf4 stores weights of 16 or 32 bits, not {weight.dtype}; choose another trainer.precision, "
                "or leave lora.base out"
            )
        # bitsandbytes keeps the limits between its 16 numbers, in the precision of whoever quantizes first.
        with default_precision(torch.float32):
            packed, state = functional.quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
        offset = state.absmax.mean()
        # Its own table: bitsandbytes would keep the one of a rehearsal, which has no numbers.
        table = functional.create_dynamic_map().to(weight.device)
        absmax, second = functional.quantize_blockwise(state.absmax - offset, code=table, blocksize=SCALES)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.absmax = nn.Parameter(absmax, requires_grad=False)  # no buffer, or ddp would send it at every step
        for name, each in (("scales", second.absmax), ("code", second.code), ("offset", offset)):
            self.register_buffer(name, each)

    def products(self, inputs: Tensor) -> Tensor:
        """Inputs times the weight; see :meth:`QuantizedLinear.products`."""
        from bitsandbytes import matmul_4bit

        if self.in_features % BLOCK or inputs.dtype == torch.float64:
            return super().products(inputs)  # on CPUs bitsandbytes takes rows that end within a block for others
        product: Tensor = matmul_4bit(inputs, self.weight, self._state(inputs.dtype, self.out_features))
        return product

    def dequantized(self, precision: torch.dtype) -> Tensor:
        """The weight as numbers; see :meth:`QuantizedLinear.dequantized`."""
        known = precision if precision.itemsize <= torch.float32.itemsize else torch.float32
        weight: Tensor = _functional().dequantize_4bit(self.weight, self._state(known, rows=1))
        return weight.view(self.out_features, self.in_features).to(precision)

    def _state(self, precision: torch.dtype, rows: int) -> Any:
        """What bitsandbytes needs beside the bits to make numbers of a precision, in so many rows."""
        make = _functional().QuantState
        second = make(self.scales, code=self.code, blocksize=SCALES, dtype=torch.float32)
        shape = torch.Size((rows, self.out_features * self.in_features // rows))
        return make(self.absmax, shape, None, BLOCK, "nf4", precision, self.offset, second)


class Int8Linear(QuantizedLinear):
    """Eight bits a weight, with a scale for each output [2]; inputs keep their precision.

    Args:
        layer: See :class:`QuantizedLinear`.
    """

    base = "int8"
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        weight = layer.weight.detach().float()
        largest = torch.iinfo(torch.int8).max
        scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / largest
        self.weight = nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def dequantized(self, precision: torch.dtype) -> Tensor:
        """The weight as numbers; see :meth:`QuantizedLinear.dequantized`."""
        return self.weight.to(precision) * self.scale.to(precision)


BASES: dict[str, type[QuantizedLinear]] = {"nf4": NF4Linear, "int8": Int8Linear}
"""The layers of a quantized model, by the setting ``base`` of :class:`lightning_sdft.policy.LoRA`."""


def quantize_(model: Any, base: Literal["nf4", "int8"], spared: Sequence[str] = ()) -> None:
    """Store the linear layers of a model, but not its head, in few bits, one after another.

    Each is quantized on torch's default device, and stays there.

    Args:
        model: A Hugging Face causal language model.
        base: How.
        spared: Endings of the names of modules that stay as they are.

    Raises:
        PolicyError: If the model has no linear layers, or bitsandbytes is missing.
    """
    head, device = model.get_output_embeddings(), torch.get_default_device()
    whole = [f"{name}." for name, _ in model.named_modules() if name.endswith(tuple(spared))]
    names = [
        name
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head and not f"{name}.".startswith(tuple(whole))
    ]
    if not names:
        raise PolicyError(f"lora.base={base}: {type(model).__name__} has no linear layers to quantize; leave base out")
    for name in names:  # by name, so that a weight is freed when its layer is replaced
        model.set_submodule(name, BASES[base](model.get_submodule(name).to(device)))


def dequantize_(model: nn.Module) -> None:
    """Turn every quantized layer of a model into a plain one."""
    for name in [name for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)]:
        layer = model.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        model.set_submodule(name, layer.plain())


def stored_as(model: nn.Module) -> Base:
    """How the linear layers of a model are stored."""
    return next((layer.base for layer in model.modules() if isinstance(layer, QuantizedLinear)), "full")


class _Product(torch.autograd.Function):
    """Inputs times a quantized weight, which the backward pass makes again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return linear(inputs, layer.dequantized(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized(gradient.dtype), None


def _functional() -> Any:
    """The functions of bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise PolicyError("lora.base=nf4 needs bitsandbytes: pip install 'lightning-sdft[quantized]'")
    from bitsandbytes import functional

    return functional
