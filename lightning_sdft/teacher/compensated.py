"""A teacher that computes in bfloat16, with an EMA as exact as in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_sdft.distributed.sharding import local_part
from lightning_sdft.policy import Policy
from lightning_sdft.teacher.full import FullTeacher

__all__ = ["PIECE", "CompensatedTeacher", "join", "split"]

PIECE = {"cpu": 2**18, "accelerator": 2**24}
"""Number of weights that an update holds in float32 at a time: 1 MiB on a CPU, to fit in its cache, and 64 MiB on an
accelerator."""


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split a float32 tensor into a bfloat16 tensor and the rounding error; :func:`join` restores it bit for bit.

    Bfloat16 is the upper half of float32. The lower half, read as a signed integer, is the distance of a weight from
    the nearest bfloat16 value, in units of float32's last place. (Storing the distance as another bfloat16 number would
    keep only 8 of its 16 bits, and small updates towards the student would be lost.)

    Args:
        weight: `(...)`.

    Returns:
        The nearest bfloat16 values, `(...)`, and the lower halves as two bytes each, `(..., 2)`: NCCL can send bytes,
        but no 16-bit integers.
    """
    value = torch.empty(weight.shape, dtype=torch.bfloat16, device=weight.device)
    residual = torch.empty((*weight.shape, 2), dtype=torch.uint8, device=weight.device)
    _store(weight.clone(memory_format=torch.contiguous_format), value, residual)
    return value, residual


def join(value: Tensor, residual: Tensor) -> Tensor:
    """Restore the float32 tensor from the two halves that :func:`split` has made of it."""
    bits = value.view(torch.int16).to(torch.int32)
    bits <<= 16
    bits += residual.view(torch.int16)[..., 0]
    return bits.view(torch.float32)


def _store(weight: Tensor, value: Tensor, residual: Tensor) -> None:
    """Write a float32 tensor into its two halves; overwrites the tensor."""
    bits, lower = weight.view(torch.int32), residual.view(torch.int16)[..., 0]
    lower.copy_(bits)
    bits -= lower
    bits >>= 16
    value.view(torch.int16).copy_(bits)


class CompensatedTeacher(FullTeacher):
    """A full copy of a policy in bfloat16, with the rounding error of each weight stored separately.

    Its hidden states are those of a bfloat16 model. Its EMA equals that in float32 bit for bit: an update joins the two
    halves of each weight, averages, and splits them again. Both halves are in the state dict. Together they take 4
    bytes per parameter, as float32 does.
    """

    residual: nn.Module
    """The lower halves, under the names that the weights have in the policy."""

    piece: int | None = None
    """Number of weights that an update holds in float32 at a time; by default :data:`PIECE` of the device."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        residuals: dict[nn.Parameter, nn.Parameter] = {}
        for parameter in self.policy.parameters():
            parameter.data, residual = split(parameter.data)
            residuals[parameter] = nn.Parameter(residual, requires_grad=False)
        self.residual = _like(self.policy, residuals)

    def shard_(self, mesh: DeviceMesh) -> None:
        """Shard both halves of the weights in the same way."""
        super().shard_(mesh)
        cut: dict[nn.Parameter, nn.Parameter] = {}
        for name, value in self.policy.named_parameters():
            assert isinstance(value, DTensor)
            part = distribute_tensor(self.residual.get_parameter(name), value.device_mesh, value.placements)
            cut[value] = nn.Parameter(part, requires_grad=False)
        self.residual = _like(self.policy, cut)

    @torch.no_grad()
    def start_from(self, student: Policy) -> None:
        """Copy the student's weights and buffers."""
        super().start_from(student)
        for value, residual, weight in self._pieces(student):
            _store(weight.clone(), value, residual)

    @torch.no_grad()
    def update_(self, student: Policy, rate: float) -> None:
        """Same as :func:`ema_update_`, in float32, a piece at a time."""
        for value, residual, weight in self._pieces(student):
            _store(join(value, residual).lerp_(weight, rate), value, residual)

    def weights(self) -> Iterator[Tensor]:
        """This process's shards of the weights in float32, one at a time, in the order of the policy's parameters."""
        for value, residual in zip(self.policy.parameters(), self.residual.parameters(), strict=True):
            yield join(local_part(value), local_part(residual))

    def _pieces(self, student: Policy) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pieces of at most `piece` weights: values `(n,)`, residuals `(n, 2)`, and the student's in float32 `(n,)`."""
        parameters = (self.policy.parameters(), self.residual.parameters(), student.parameters())
        for value, residual, weight in (map(local_part, each) for each in zip(*parameters, strict=True)):
            size = self.piece or PIECE.get(value.device.type, PIECE["accelerator"])
            pieces = value.view(-1).split(size), residual.view(-1, 2).split(size), weight.reshape(-1).split(size)
            for ours, taken, theirs in zip(*pieces, strict=True):
                yield ours, taken, theirs.detach().to(torch.float32)


def _like(policy: Policy, instead: dict[nn.Parameter, nn.Parameter]) -> nn.Module:
    """A module with the policy's parameter names, each holding the replacement for that parameter, and no forward."""
    root = nn.Module()
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        *path, attribute = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(attribute, instead[parameter])
    return root
