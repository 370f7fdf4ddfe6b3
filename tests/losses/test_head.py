from __future__ import annotations

import pytest
import torch

from lightning_sdft.losses import Head
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
