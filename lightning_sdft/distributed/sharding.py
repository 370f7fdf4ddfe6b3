"""Fully sharded data parallelism (FSDP2): each process holds a shard of every weight.

A block of the model is gathered while it computes; its gradient is averaged over processes and sharded again. The
output head is handled separately: the fused loss gathers it (:meth:`lightning_sdft.losses.head.Head.gathered`).

Optimizer, gradient clipping, EMA and checkpoints work on the shards. Generation would have to gather the weights for
every token, so they are gathered once for a whole generation. After that it needs no communication, so prompts and
responses may differ in length between processes.

[1] Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, 2023, https://arxiv.org/abs/2304.11277
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lightning_sdft.errors import PolicyError
from lightning_sdft.policy import Policy
from lightning_sdft.policy.lora import base_layer, copied_modules
from lightning_sdft.policy.quantized import stored_as

__all__ = ["check_alike", "local_part", "shard_", "unsharded"]


def shard_(policy: Policy, mesh: DeviceMesh, offload: OffloadPolicy | None = None) -> None:
    """Shard the weights of a policy in place: first each block, then the remaining weights, then the head.

    Args:
        policy: The policy, with the same unsharded weights on every process.
        mesh: The processes. With one dimension, weights are sharded over it. With two, shards are replicated over the
            first (hybrid sharding: one dimension for the nodes, one for the devices of a node).
        offload: Where the shards are kept between uses; by default on the device.

    Raises:
        PolicyError: If the model does not say what its blocks are, or LoRA trains some of its modules in full,
            or its weights are quantized.
    """
    model = policy.model
    blocks = policy.blocks()
    if not blocks:
        raise PolicyError(
            f"{type(model).__name__} does not say what its blocks are (_no_split_modules), so it cannot be sharded; "
            "use strategy=ddp"
        )
    if copied := copied_modules(model):
        raise PolicyError(
            f"lora.modules_to_save={copied} cannot be sharded; leave it empty (lora.target_modules may name any linear "
            "layer or embedding), or use strategy=ddp"
        )
    if (stored := stored_as(model)) != "full":
        raise PolicyError(
            f"a model in few bits (lora.base={stored}) is not sharded over processes (fsdp2); use strategy=ddp, where "
            "each has all of it, or lora.base=full"
        )
    tied = _tied(model)
    options: dict[str, Any] = {"mesh": mesh, **({} if offload is None else {"offload_policy": offload})}
    for block in blocks:
        fully_shard(block, **options)
    # Reshard after each forward pass, so that between passes there are only shards, on which the EMA works.
    fully_shard(model.base_model, reshard_after_forward=True, **options)
    if not tied:
        fully_shard(model.get_output_embeddings(), **options)
    _tie(model, tied)


@contextmanager
def unsharded(policy: Policy) -> Iterator[None]:
    """Gather the weights of a policy once, and reshard them afterwards. All processes must enter and leave together.

    Inside this context the policy needs no communication. Does nothing if the weights are not sharded, or are gathered
    already.
    """
    parts = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    if not any(isinstance(parameter, DTensor) for parameter in policy.parameters()):
        yield
        return
    tied = _tied(policy.model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    _tie(policy.model, tied)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
        _tie(policy.model, tied)


def check_alike(teacher: nn.Module, student: nn.Module) -> None:
    """Check that the teacher's weights are sharded like the student's, so that the EMA can combine the shards.

    Raises:
        PolicyError: If they are not; the message names the first weight that differs.
    """
    parameters = dict(student.named_parameters())
    for name, ours in teacher.named_parameters():
        theirs = parameters[name]
        if _layout(ours) != _layout(theirs):
            raise PolicyError(
                f"{name} of the teacher is laid out as {_layout(ours)} and the student's as {_layout(theirs)}; this is "
                "a bug in lightning_sdft, please report the model and the strategy"
            )


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: its shard, or all of it if the tensor is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _layout(parameter: nn.Parameter) -> tuple[object, ...]:
    placements = (parameter.placements, parameter.device_mesh) if isinstance(parameter, DTensor) else ()
    return tuple(parameter.shape), *placements


def _tied(model: Any) -> bool:
    """Whether the head's weight and the embedding are tied."""
    return base_layer(model.get_output_embeddings()).weight is base_layer(model.get_input_embeddings()).weight


def _tie(model: Any, tied: bool) -> None:
    """Tie the head to the embedding's current weight, gathered or sharded."""
    if tied:
        base_layer(model.get_output_embeddings()).weight = base_layer(model.get_input_embeddings()).weight
