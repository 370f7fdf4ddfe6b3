"""Checks that an engine has the policy's weights, by checksums that do not depend on their layout.

An engine fuses projections, pads the vocabulary and shards tensors over devices. So the checksum of a tensor is a sum
over its elements: checksums of parts add up, order does not matter, and zero padding adds nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sdft.errors import RolloutError

__all__ = ["TensorSum", "check_weights", "checksum", "tensor_sums"]

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtype for the bits of an element, by the element's size in bytes."""

MIXERS = ((0x2C1B3C6D, 15), (0x297A2D39, 13))
"""Odd factors and shifts of the hash: a change of any bit spreads over all bits, and 0 stays 0."""

BLOCK = 2**24
"""Number of elements that are hashed at a time, which bounds the memory needed."""


@dataclass(frozen=True)
class TensorSum:
    """The checksum of one of the engine's tensors.

    Args:
        tensors: Names of the policy's tensors that it consists of.
        dtype: Name of its dtype in torch.
        elements: Number of elements, including padding.
        checksum: See :func:`checksum`.
    """

    tensors: list[str]
    dtype: str
    elements: int
    checksum: int


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """The sum of a hash of each element's bits."""
    total = 0
    for block in tensor.detach().reshape(-1).split(BLOCK):
        mixed = block.view(BITS[block.element_size()]).to(torch.int32)
        for factor, shift in MIXERS:  # overflow is intended
            mixed = mixed * factor
            mixed ^= mixed >> shift
        total += int(mixed.sum(dtype=torch.int64))
    return total


def tensor_sums(model: nn.Module) -> list[dict[str, Any]]:
    """Checksums of the tensors of vLLM's model, as plain data, without those that it repacks (on CPUs)."""
    fused: Mapping[str, Sequence[str]] = getattr(model, "packed_modules_mapping", {})
    return [
        asdict(TensorSum(_parts(name, fused), str(each.dtype).removeprefix("torch."), each.numel(), checksum(each)))
        for name, each in model.named_parameters()
        if each.numel()
    ]


def _parts(name: str, fused: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the policy's tensors that one of vLLM's consists of, such as three projections for ``qkv_proj``."""
    pieces = name.split(".")
    for position, piece in enumerate(pieces):
        if piece in fused:
            return [".".join([*pieces[:position], part, *pieces[position + 1 :]]) for part in fused[piece]]
    return [name]


def check_weights(weights: Mapping[str, Tensor], workers: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Compare the weights of the policy with those of an engine.

    Args:
        weights: The policy's weights by name.
        workers: The result of :func:`tensor_sums` in each process of the engine.

    Returns:
        A hash that identifies these weights.

    Raises:
        RolloutError: If a tensor differs, or none can be compared.
    """
    compared, different = [], []
    for expected, found in _pairs(weights, workers):
        compared.append(expected)
        sums = [each.checksum for each in found]
        if sum(sums) != expected.checksum and set(sums) != {expected.checksum}:  # neither sharded nor replicated
            different.append(expected.tensors[0])
    if not compared:
        raise RolloutError(
            "none of vLLM's tensors has a name that the policy knows, so nothing can be compared; use another engine "
            "for this model"
        )
    if different:
        raise RolloutError(
            f"vLLM does not have the weights of the policy though they were sent: {len(different)} of {len(compared)} "
            f"tensors differ, the first is {different[0]}. Rollouts would come from another model; leave engine out, "
            "and please report the model and the version of vLLM"
        )
    return hashlib.sha256(repr(compared).encode()).hexdigest()[:32]


def _pairs(
    weights: Mapping[str, Tensor], workers: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[TensorSum, list[TensorSum]]]:
    """The expected checksum of each tensor, and those found in the engine's processes that hold it or a shard of it."""
    found: dict[str, list[TensorSum]] = {}
    for sums in workers:
        for each in (TensorSum(**entry) for entry in sums):
            found.setdefault(each.tensors[0], []).append(each)
    for parts in found.values():
        if not all(name in weights for name in parts[0].tensors):
            continue
        tensors = [weights[name].detach().to(getattr(torch, parts[0].dtype)) for name in parts[0].tensors]
        elements = sum(tensor.numel() for tensor in tensors)
        # With several devices, a tensor may be replicated in part; sums cannot detect that, so it is not compared.
        if len(parts) == 1 or elements in (parts[0].elements, sum(part.elements for part in parts)):
            total = sum(checksum(tensor) for tensor in tensors)
            yield TensorSum(parts[0].tensors, parts[0].dtype, elements, total), parts
