from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_sdft.losses import ForwardKL, Head, distillation_loss
from tests.losses.dense import HEADS, dense_logits, make_problem


@pytest.mark.parametrize("kind", HEADS)
def test_logits_are_soft_cap_of_scale_of_projection(kind: str) -> None:
    problem = make_problem(kind)
    torch.testing.assert_close(problem.head(problem.hidden), dense_logits(problem.hidden, problem.head))


def test_logits_by_hand() -> None:
    # 2 * (3 * 0.5 + 1) = 5, capped at 4: 4 * tanh(5 / 4) = 3.3931346
    head = Head(torch.tensor([[0.5]]), torch.tensor([1.0]), soft_cap=4.0, scale=2.0)
    torch.testing.assert_close(head(torch.tensor([[3.0]])), torch.tensor([[3.3931346]]))


@pytest.mark.parametrize("kind", HEADS)
def test_slope_is_the_derivative_of_the_soft_cap(kind: str) -> None:
    head = make_problem(kind).head
    products = torch.randn(4, 13, dtype=torch.float64, requires_grad=True)
    logits = head.logits(products)
    (derivative,) = torch.autograd.grad(logits.sum(), products)
    slope = head.slope(logits.detach())
    torch.testing.assert_close(derivative, head.scale * (torch.ones_like(products) if slope is None else slope))


# With an adapter


def adapted(head: Head, seed: int = 3, rank: int = 2) -> Head:
    """The head with an adapter on it."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (len(head.weight), rank), (rank, head.weight.shape[1])
    up, down = (torch.randn(shape, generator=generator, dtype=head.weight.dtype).requires_grad_() for shape in shapes)
    return replace(head, low_rank=(up, down))


@pytest.mark.parametrize("kind", HEADS)
def test_adapter_is_added_to_the_weight(kind: str) -> None:
    problem = make_problem(kind)
    head = adapted(problem.head)
    assert head.low_rank is not None
    up, down = head.low_rank
    dense = replace(problem.head, weight=problem.head.weight + up @ down)
    torch.testing.assert_close(head(problem.hidden), dense_logits(problem.hidden, dense))
    whole = head.gathered()
    assert whole.low_rank is None
    torch.testing.assert_close(whole.weight, dense.weight)


def test_loss_of_adapted_heads_and_its_gradients_are_those_of_dense_weights() -> None:
    problem = make_problem("all")
    frozen = replace(problem.head, weight=problem.head.weight.detach())
    head, teacher = adapted(frozen), adapted(problem.teacher_head, seed=4)
    assert head.low_rank is not None
    inputs = [problem.hidden, *head.low_rank]
    fused = distillation_loss(
        problem.hidden, head, problem.teacher_hidden, teacher, problem.weights, ForwardKL(), chunk_tokens=4
    )
    logits = []
    for hidden, each in ((problem.hidden, head), (problem.teacher_hidden, teacher)):
        assert each.low_rank is not None
        logits.append(dense_logits(hidden, replace(each, weight=each.weight + each.low_rank[0] @ each.low_rank[1])))
    student, expected = logits[0].log_softmax(-1), logits[1].log_softmax(-1).detach()
    loss = (problem.weights * (expected.exp() * (expected - student)).sum(-1)).sum()
    torch.testing.assert_close(fused.loss, loss)
    for gradient, dense in zip(torch.autograd.grad(fused.loss, inputs), torch.autograd.grad(loss, inputs), strict=True):
        assert dense.abs().max() > 1e-3
        torch.testing.assert_close(gradient, dense)


def test_adapter_of_a_low_precision_head_is_not_rounded() -> None:
    head = Head(torch.ones(3, 4, dtype=torch.bfloat16), low_rank=(torch.full((3, 1), 1e-3), torch.ones(1, 4)))
    hidden = torch.ones(2, 4, dtype=torch.bfloat16)
    torch.testing.assert_close(head(hidden), torch.full((2, 3), 4.004))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.gathered().weight, torch.full((3, 4), 1.001), rtol=1e-6, atol=0)
