"""Runs models without computing numbers, to find in seconds what a step of any model takes, on any machine.

A floating-point tensor gets an address, but no memory: the system provides memory only when something is written, and
nothing is. The same goes for integers that are the bits of such a tensor, and for those of 8 bits that are computed
from one: the weights of a quantized model. All else is real: shapes, types, strides, shared storage, what autograd
keeps, and all other integers, such as tokens, positions and masks. Shapes come from torch's ``meta`` device, which
knows those of every operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_sdft.memory.ledger import Ledger

__all__ = ["Hollow"]

aten = torch.ops.aten

META = torch.device("meta")

PACKED = (torch.uint8, torch.int8)
"""Types of integers that are no tokens, positions or masks."""

RESULTS: dict[Any, Any] = {}
"""What operations return on the meta device, by their arguments: the next model has much the same operations."""


class Hollow(TorchDispatchMode):
    """While it is entered, no operation computes floating-point numbers, but the bytes of all tensors are counted.

    Reads of values return placeholders: allclose is True, no weight is zero, scalars are 1. Integers that are computed
    from floating-point numbers are 0, or, if they have 8 bits, have no numbers either.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self._storages: set[int] = set()  # of tensors without numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation without computing its numbers."""
        kwargs = kwargs or {}
        tensors = list(_tensors((args, *kwargs.values())))
        hollow = [each for each in tensors if self._is_hollow(each)]
        exact = not hollow
        if not exact and func in (aten.allclose.default, aten._local_scalar_dense.default):
            return True if func is aten.allclose.default else 1.0
        if not exact and func is aten.nonzero.default:
            return self.ledger.enter(torch.ones(args[0].shape, dtype=torch.bool).nonzero())
        kind = _kind(func)
        if kind == "write" and not exact:
            return _written(func, args, kwargs)
        if kind != "function":
            return func(*args, **kwargs)
        if exact and tensors:
            return _changed(func(*args, **kwargs), self._hollow)
        if func is aten.index.Tensor:
            args = (args[0], [place for each in args[1] for place in _places(each)])
        result = _on_meta(func, args, kwargs)
        if exact and not any(map(_is_floating, _tensors((result,)))):
            result = func(*args, **kwargs)
        bits = not all(map(_is_floating, hollow))  # integers made from bits are bits
        return _changed(result, lambda each: self._hollow(each, bits or (not exact and each.dtype in PACKED)))

    def _hollow(self, tensor: Tensor, bits: bool = False) -> Tensor:
        if tensor.is_floating_point() or bits:
            tensor = _empty(tensor)
            storage = tensor.untyped_storage()
            self._storages.add(id(storage))
            weakref.finalize(storage, self._storages.discard, id(storage))
        elif tensor.device == META:
            tensor = torch.zeros(tensor.shape, dtype=tensor.dtype)
        return self.ledger.enter(tensor)

    def _is_hollow(self, tensor: Tensor) -> bool:
        """Whether a tensor has floating-point numbers or their bits, and so no numbers."""
        return tensor.is_floating_point() or id(tensor.untyped_storage()) in self._storages


@cache
def _kind(func: Any) -> Literal["function", "view", "write"]:
    """Whether an operation makes new tensors, returns views of its arguments, or writes into them."""
    aliases = [each.alias_info for each in func._schema.arguments if each.alias_info is not None]
    if any(each.is_write for each in aliases) and torch.Tag.inplace_view not in func.tags:
        return "write"
    return "view" if aliases or func is aten._unsafe_view.default else "function"


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation returns that writes into its arguments: the arguments that it writes to."""
    schema = func._schema
    given = {each.name: value for each, value in zip(schema.arguments, args, strict=False)} | kwargs
    written = [given[each.name] for each in schema.arguments if each.alias_info is not None and each.name in given]
    return None if not schema.returns else written[0] if len(schema.returns) == 1 else tuple(written)


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """The integer indices that select the same as an index, which may be a mask of several dimensions."""
    return index.nonzero().unbind(1) if index is not None and index.dtype == torch.bool else (index,)


def _on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation on the meta device, computed once for equal arguments."""
    key = (func, torch.get_default_dtype(), _layout(args), *((name, _layout(each)) for name, each in kwargs.items()))
    if key not in RESULTS:
        args, values = _changed((args, tuple(kwargs.values())), lambda each: _empty(each, META))
        named = dict(zip(kwargs, values, strict=True))
        if any(each.name == "device" for each in func._schema.arguments):
            named["device"] = META
        RESULTS[key] = func(*args, **named)
    return RESULTS[key]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, and in lists and tuples among them."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value, or lists and tuples of values, with its tensors changed; torch's trees take half the time of a run."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)([_changed(each, change) for each in value]) if isinstance(value, list | tuple) else value


def _is_floating(value: Tensor) -> bool:
    return value.is_floating_point()


def _layout(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_layout, value))
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else (type(value), value)


def _empty(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
