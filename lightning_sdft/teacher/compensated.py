"""A teacher that reads in bfloat16, and averages as exactly as one in float32."""

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
"""Weights that an update has in float32 at the same time: 1 MiB of them on a CPU, whose cache holds that, and 64 MiB on
an accelerator."""


def split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 tensor as a bfloat16 one and what rounding took from it; :func:`join` has every bit of it again.

    Bfloat16 is the upper half of float32. The lower half, as a signed number, is the distance of a weight from the
    value nearest to it in units of the last place of float32. (A second bfloat16 number for the distance would hold 8
    of its 16 bits, and updates towards a near student would get lost.)

    Args:
        weight: `(...)`.

    Returns:
        The nearest values, `(...)` in bfloat16, and the lower halves as two bytes each, `(..., 2)`: NCCL sends bytes,
        and no numbers of 16 bits other than floating-point ones.
    """
    value = torch.empty(weight.shape, dtype=torch.bfloat16, device=weight.device)
    residual = torch.empty((*weight.shape, 2), dtype=torch.uint8, device=weight.device)
    _store(weight.clone(memory_format=torch.contiguous_format), value, residual)
    return value, residual


def join(value: Tensor, residual: Tensor) -> Tensor:
    """The float32 tensor of which :func:`split` made these two."""
    bits = value.view(torch.int16).to(torch.int32)
    bits <<= 16
    bits += residual.view(torch.int16)[..., 0]
    return bits.view(torch.float32)


def _store(weight: Tensor, value: Tensor, residual: Tensor) -> None:
    """Write a float32 tensor, which is overwritten, into its two halves."""
    bits, lower = weight.view(torch.int32), residual.view(torch.int16)[..., 0]
    lower.copy_(bits)
    bits -= lower
    bits >>= 16
    value.view(torch.int16).copy_(bits)


class CompensatedTeacher(FullTeacher):
    """A full copy of a policy in bfloat16, beside which lies what rounding took from each weight.

    Its hidden states are those of a bfloat16 model. Its average is the one in float32, bit for bit: an update puts the
    halves of a weight together, averages, and parts them again. Both halves are in the state dict. They take 4 bytes a
    parameter, as float32 does.
    """

    residual: nn.Module
    """The lower halves, at the places that the weights have in the policy."""

    piece: int | None = None
    """Weights that an update has in float32 at the same time; by default as many as suit the device (:data:`PIECE`)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        residuals: dict[nn.Parameter, nn.Parameter] = {}
        for parameter in self.policy.parameters():
            parameter.data, residual = split(parameter.data)
            residuals[parameter] = nn.Parameter(residual, requires_grad=False)
        self.residual = _like(self.policy, residuals)

    def shard_(self, mesh: DeviceMesh) -> None:
        """Cut both halves of the weights alike."""
        super().shard_(mesh)
        cut: dict[nn.Parameter, nn.Parameter] = {}
        for name, value in self.policy.named_parameters():
            assert isinstance(value, DTensor)
            part = distribute_tensor(self.residual.get_parameter(name), value.device_mesh, value.placements)
            cut[value] = nn.Parameter(part, requires_grad=False)
        self.residual = _like(self.policy, cut)

    @torch.no_grad()
    def start_from(self, student: Policy) -> None:
        """Take over the student's weights and buffers."""
        super().start_from(student)
        for value, residual, weight in self._pieces(student):
            _store(weight.clone(), value, residual)

    @torch.no_grad()
    def update_(self, student: Policy, rate: float) -> None:
        """As :func:`ema_update_`, in float32 piece by piece."""
        for value, residual, weight in self._pieces(student):
            _store(join(value, residual).lerp_(weight, rate), value, residual)

    def weights(self) -> Iterator[Tensor]:
        """This process's weights in float32, one after another in the order of the policy's parameters."""
        for value, residual in zip(self.policy.parameters(), self.residual.parameters(), strict=True):
            yield join(local_part(value), local_part(residual))

    def _pieces(self, student: Policy) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Values `(n,)`, residuals `(n, 2)` and the student's weights `(n,)` in float32, `n` at most a piece."""
        parameters = (self.policy.parameters(), self.residual.parameters(), student.parameters())
        for value, residual, weight in (map(local_part, each) for each in zip(*parameters, strict=True)):
            size = self.piece or PIECE.get(value.device.type, PIECE["accelerator"])
            pieces = value.view(-1).split(size), residual.view(-1, 2).split(size), weight.reshape(-1).split(size)
            for ours, taken, theirs in zip(*pieces, strict=True):
                yield ours, taken, theirs.detach().to(torch.float32)


def _like(policy: Policy, instead: dict[nn.Parameter, nn.Parameter]) -> nn.Module:
    """Modules that hold parameters by the names of the policy's, each in the place of one of these, and do nothing."""
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
