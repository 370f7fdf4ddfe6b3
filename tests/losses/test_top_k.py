from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Distribution, Divergence, ForwardKL, JensenShannon, ReverseKL, TopK, distillation_loss
from lightning_sdft.losses.distribution import FLOOR
from tests.losses.dense import DIVERGENCES, V, check_against_dense, dense_divergence, dense_logits, make_problem
from tests.pairs import pairwise

SUPPORTS = ["teacher", "student", "union"]


def logits(count: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (2 * torch.randn(count, V, dtype=torch.float64)).requires_grad_(), 2 * torch.randn(count, V).double()


@pytest.mark.parametrize(
    ("divergence", "support", "k", "tail"), pairwise(DIVERGENCES, SUPPORTS, [1, 4, V - 1, V, 100], [True, False])
)
def test_value_and_gradient_agree_with_autograd(divergence: Divergence, support: str, k: int, tail: bool) -> None:
    student, teacher = logits()
    top_k = TopK(k, divergence, support, tail)  # type: ignore[arg-type]
    dense = dense_divergence(student.log_softmax(-1), teacher.log_softmax(-1), top_k)
    value, gradient = top_k(Distribution.of(student.detach().clone()), Distribution.of(teacher.clone()))
    torch.testing.assert_close(value, dense.detach(), rtol=1e-10, atol=1e-12)
    (expected,) = torch.autograd.grad(dense.sum(), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_of_all_tokens_is_the_divergence_itself(divergence: Divergence, support: str) -> None:
    student, teacher = logits()
    both = Distribution.of(student.detach().clone()), Distribution.of(teacher)
    for tail in (True, False):
        value, gradient = TopK(V, divergence, support, tail)(*both)  # type: ignore[arg-type]
        torch.testing.assert_close(value, divergence(*both)[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradient, divergence(*both)[1], rtol=1e-10, atol=1e-12)


def test_by_hand() -> None:
    # Teacher (1/2, 1/4, 1/8, 1/8), student (1/4, 1/4, 1/4, 1/4), top 1 of the teacher: the first token.
    student = Distribution.of(torch.zeros(1, 4, dtype=torch.float64))
    teacher = Distribution.of(torch.tensor([[4.0, 2.0, 1.0, 1.0]], dtype=torch.float64).log())
    # With the tail: KL((1/2, 1/2) || (1/4, 3/4)); gradient p_S - p_T = (-1/4, 1/4), the latter on three equal tokens.
    value, gradient = TopK(1)(student, teacher)
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert gradient.tolist() == [pytest.approx([-1 / 4, 1 / 12, 1 / 12, 1 / 12])]
    # Without it one token alone has probability 1 for both.
    value, gradient = TopK(1, tail=False)(student, teacher)
    assert value.item() == 0
    assert gradient.tolist() == [[0, 0, 0, 0]]
    # Top 2, renormalised: KL((2/3, 1/3) || (1/2, 1/2)).
    value, gradient = TopK(2, tail=False)(student, teacher)
    assert value.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert gradient.tolist() == [pytest.approx([-1 / 6, 1 / 6, 0, 0])]
    # The reverse direction: 1/4 log(1/2) + 3/4 log(3/2).
    assert TopK(1, ReverseKL())(student, teacher)[0].item() == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    )


def test_more_tokens_come_closer_from_below() -> None:
    student, teacher = (Distribution.of(each.detach().clone()) for each in logits())
    full = ForwardKL()(student, teacher)[0]
    values = torch.stack([TopK(k)(student, teacher)[0] for k in (1, 2, 4, 8, V)])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert (values <= full + 1e-12).all()


@pytest.mark.parametrize("support", SUPPORTS)
def test_a_tail_without_probability_stays_finite(support: str) -> None:
    student, teacher = torch.full((2, 1, V), FLOOR, dtype=torch.float64)
    student[:, :3], teacher[:, 1:4] = 0.0, 0.0
    both = Distribution.of(student), Distribution.of(teacher)
    for k in (3, 4):
        value, gradient = TopK(k, JensenShannon(0.5), support)(*both)  # type: ignore[arg-type]
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_through_the_head() -> None:
    problem, top_k = make_problem(), TopK(4, support="union")
    fused = distillation_loss(*problem[:4], problem.weights, top_k, chunk_tokens=4)
    student = dense_logits(problem.hidden, problem.head).log_softmax(-1)
    teacher = dense_logits(problem.teacher_hidden, problem.teacher_head).detach().log_softmax(-1)
    check_against_dense(problem, fused, dense_divergence(student, teacher, top_k), 1e-10)
    full = distillation_loss(*problem[:4], problem.weights, ForwardKL())
    torch.testing.assert_close(fused.diagnostics["kl"], full.values)  # the diagnostic is of the whole vocabulary


def test_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"TopK: k=0 must be a whole number >= 1"):
        TopK(0)
