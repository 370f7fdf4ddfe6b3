"""The head in shards on two processes, as FSDP2 keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.distributed import get_rank, init_device_mesh, init_process_group
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lightning_sdft.losses import ForwardKL, Head, distillation_loss
from tests.launch import in_processes
from tests.losses.dense import Problem, dense_divergence, dense_logits, make_problem


def expected(ranks: list[Problem]) -> list[torch.Tensor]:
    """Gradients of weight and bias, averaged over the processes, dense."""
    shared = ranks[0]
    losses = []
    for each in ranks:
        student = dense_logits(each.hidden, shared.head).log_softmax(-1)
        teacher = dense_logits(each.teacher_hidden, shared.teacher_head).log_softmax(-1).detach()
        losses.append((each.weights * dense_divergence(student, teacher, ForwardKL())).sum())
    assert shared.head.bias is not None
    return list(torch.autograd.grad(sum(losses) / len(ranks), [shared.head.weight, shared.head.bias]))  # type: ignore[type-var, arg-type]


def check() -> None:
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    ranks = [make_problem(seed=seed) for seed in (0, 1)]
    own, shared = ranks[get_rank()], ranks[0]

    def sharded(head: Head) -> Head:
        def shard(tensor: Any) -> DTensor:
            return distribute_tensor(tensor.detach(), mesh, [Shard(0)]).requires_grad_()

        return replace(head, weight=shard(head.weight), bias=shard(head.bias))

    head, teacher = sharded(shared.head), sharded(shared.teacher_head)
    fused = distillation_loss(own.hidden, head, own.teacher_hidden, teacher, own.weights, ForwardKL(), chunk_tokens=4)
    fused.loss.backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip((head.weight, head.bias), expected(ranks), strict=True):
        assert isinstance(parameter, DTensor)
        assert parameter.grad.placements == (Shard(0),)
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient, rtol=1e-10, atol=1e-10)
    assert teacher.weight.grad is None


def test_gradient_of_a_sharded_head_is_the_average_over_processes() -> None:
    in_processes(2, check)
