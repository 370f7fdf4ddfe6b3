"""A teacher whose weights are kept in CPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from lightning_sdft.errors import PolicyError
from lightning_sdft.losses.head import Head
from lightning_sdft.policy import Policy
from lightning_sdft.teacher.full import FullTeacher

__all__ = ["OffloadedTeacher", "leave_out_of_ddp"]


class OffloadedTeacher(FullTeacher):
    """A full copy of a policy in float32 in CPU memory.

    To compute, the weights of one block at a time are copied to the student's device and dropped after its forward
    pass. Each access to :attr:`head` copies the head to the device; the copy is freed with the head. The EMA is
    computed on the CPU, to which the student's weights are copied one at a time.

    Raises:
        PolicyError: If the model does not say what its blocks are.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.device = policy.device
        self._homes: dict[nn.Module, list[tuple[nn.Module, str, nn.Parameter]]] = {}
        model = self.policy.model
        model.base_model.register_forward_pre_hook(self._send_inputs, with_kwargs=True)
        for part, recurse in _parts(self.policy):
            part.register_forward_pre_hook(partial(self._visit, recurse))
            # Also if the forward pass raises an error; otherwise the weights would stay on the device.
            part.register_forward_hook(self._go_home, always_call=True)

    @property
    def head(self) -> Head:
        """A copy of the output head on the device, which turns the teacher's hidden states into logits."""
        head = self.policy.head
        return replace(
            head, weight=self._on_device(head.weight), bias=None if head.bias is None else self._on_device(head.bias)
        )

    def shard_(self, mesh: DeviceMesh) -> None:
        """Refuse to shard: shards would be gathered on the device, and sharding already saves the memory.

        Raises:
            PolicyError: Always.
        """
        raise PolicyError(
            "CopiedTeacher(memory=offload) is for strategies that replicate the weights; under fsdp2 each process has "
            "only a shard of the teacher: leave memory out"
        )

    def stored(self, weight: Tensor) -> Tensor:
        """A copy of a weight in float32 in CPU memory."""
        return weight.to("cpu", torch.float32, copy=True)

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, copy=True)

    def _send_inputs(self, body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Move inputs to the device; the policy creates them on the CPU, where its weights are."""
        moved = {name: each.to(self.device) if isinstance(each, Tensor) else each for name, each in kwargs.items()}
        return args, moved

    def _visit(self, recurse: bool, part: nn.Module, args: Any) -> None:
        self._homes[part] = []
        for owner in part.modules() if recurse else [part]:
            for name, parameter in owner.named_parameters(recurse=False):
                self._homes[part].append((owner, name, parameter))
                setattr(owner, name, nn.Parameter(self._on_device(parameter), requires_grad=False))

    def _go_home(self, part: nn.Module, args: Any, output: Any) -> None:
        for owner, name, parameter in self._homes.pop(part, []):
            setattr(owner, name, parameter)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> OffloadedTeacher:
        self.device = fn(torch.empty(0, device=self.device)).device
        super()._apply(lambda tensor: tensor if isinstance(tensor, nn.Parameter) else fn(tensor), *args, **kwargs)
        return self


def leave_out_of_ddp(module: nn.Module, name: str) -> None:
    """Have DDP leave a part of a module alone: it refuses weights on two kinds of device.

    It need not synchronise the teacher's weights, only the student's.
    """
    names = [f"{name}.{weight}" for weight, _ in module.get_submodule(name).named_parameters(remove_duplicate=False)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def _parts(policy: Policy) -> Iterator[tuple[nn.Module, bool]]:
    """The modules that are copied to the device one at a time: each block as a whole, and layers outside of blocks."""
    blocks = set(policy.blocks())
    inside: set[nn.Module] = set()
    for module in policy.model.base_model.modules():  # modules() lists a module before its submodules
        if module in inside:
            continue
        if module in blocks:
            inside.update(module.modules())
            yield module, True
        elif next(module.parameters(recurse=False), None) is not None:
            yield module, False
    if not inside:
        raise PolicyError(
            f"{type(policy.model).__name__} does not say what its blocks are (_no_split_modules), so its weights "
            "cannot be copied to the device block by block; use CopiedTeacher(memory=float32) or compensated"
        )
