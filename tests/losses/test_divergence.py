from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import (
    Distribution,
    Divergence,
    ForwardKL,
    Head,
    JensenShannon,
    ReverseKL,
    distillation_loss,
)
from lightning_sdft.losses.distribution import FLOOR
from tests.losses.dense import DIVERGENCES, V, dense_divergence, kl

# Worked out by hand: teacher (3/4, 1/4), student (1/2, 1/2).
TEACHER, STUDENT = (0.75, 0.25), (0.5, 0.5)
# KL(p_T || p_S) = 3/4 log(3/2) + 1/4 log(1/2) = 0.75 * 0.405465 - 0.25 * 0.693147 = 0.130812
# its gradient p_S - p_T = (-1/4, 1/4)
FORWARD = 0.130812
# KL(p_S || p_T) = 1/2 log(2/3) + 1/2 log(2) = 1/2 log(4/3) = 0.143841
# its gradient p_S (log(p_S / p_T) - KL) = 1/2 (-0.405465 - 0.143841) = -0.274653 and 1/2 (0.693147 - 0.143841)
REVERSE = 0.143841
# beta = 1/4: m = 3/4 (1/2, 1/2) + 1/4 (3/4, 1/4) = (9/16, 7/16)
# 1/4 KL(p_T || m) = 1/4 (3/4 log(4/3) + 1/4 log(4/7)) = 1/4 (0.215762 - 0.139904) = 0.018964
# 3/4 KL(p_S || m) = 3/4 (1/2 log(8/9) + 1/2 log(8/7)) = 3/8 log(64/63) = 0.005906
JENSEN_SHANNON_QUARTER = 0.024870


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log().clamp(min=FLOOR)


def distribution(*probabilities: float) -> Distribution:
    return Distribution.of(logits(*probabilities))


@pytest.mark.parametrize(
    ("divergence", "value", "gradient"),
    [
        (ForwardKL(), FORWARD, (-0.25, 0.25)),
        (ReverseKL(), REVERSE, (-0.274653, 0.274653)),
        (JensenShannon(0.25), JENSEN_SHANNON_QUARTER, None),
    ],
)
def test_direction_by_hand(divergence: Divergence, value: float, gradient: tuple[float, float] | None) -> None:
    values, gradients = divergence(distribution(*STUDENT), distribution(*TEACHER))
    assert values.item() == pytest.approx(value, abs=1e-6)
    if gradient is not None:
        assert gradients.tolist() == [pytest.approx(gradient, abs=1e-6)]
    # And through the head, where student and teacher could be swapped once more.
    head = Head(torch.eye(2, dtype=torch.float64))
    hidden = logits(*STUDENT).requires_grad_()
    result = distillation_loss(hidden, head, logits(*TEACHER), head, torch.ones(1), divergence)
    assert result.loss.item() == pytest.approx(value, abs=1e-6)
    assert result.diagnostics["kl"].item() == pytest.approx(FORWARD, abs=1e-6)
    if gradient is not None:
        assert torch.autograd.grad(result.loss, hidden)[0].tolist() == [pytest.approx(gradient, abs=1e-6)]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_closed_form_gradient_agrees_with_autograd(divergence: Divergence) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, V, dtype=torch.float64)).requires_grad_()
    teacher = (3 * torch.randn(7, V, dtype=torch.float64)).log_softmax(-1)
    dense = dense_divergence(logits.log_softmax(-1), teacher, divergence)
    value, gradient = divergence(Distribution.of(logits.detach().clone()), Distribution.of(teacher.clone()))
    torch.testing.assert_close(value, dense.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(dense.sum(), logits)[0], rtol=1e-10, atol=1e-12)


def test_gradients_as_published() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, V, dtype=torch.float64).log_softmax(-1)
    both = Distribution.of(student), Distribution.of(teacher)
    torch.testing.assert_close(ForwardKL()(*both)[1], student.exp() - teacher.exp())
    expected = student.exp() * (student - teacher - kl(student, teacher)[:, None])
    torch.testing.assert_close(ReverseKL()(*both)[1], expected)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_distributions_have_zero_divergence_and_gradient(divergence: Divergence) -> None:
    both = Distribution.of(torch.randn(4, V, dtype=torch.float64))
    value, gradient = divergence(both, both)
    torch.testing.assert_close(value, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros(4, V, dtype=torch.float64), rtol=0, atol=1e-14)


def test_jensen_shannon_is_a_rescaled_kl_towards_its_ends() -> None:
    student, teacher = distribution(0.5, 0.3, 0.2), distribution(0.1, 0.2, 0.7)
    forward, forward_gradient = ForwardKL()(student, teacher)
    reverse, reverse_gradient = ReverseKL()(student, teacher)
    towards_forward, gradient = JensenShannon(1e-6)(student, teacher)
    assert towards_forward.item() < 1e-5
    torch.testing.assert_close(towards_forward / 1e-6, forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient / 1e-6, forward_gradient, rtol=1e-4, atol=1e-6)
    towards_reverse, gradient = JensenShannon(1 - 1e-6)(student, teacher)
    torch.testing.assert_close(towards_reverse / 1e-6, reverse, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient / 1e-6, reverse_gradient, rtol=1e-4, atol=1e-6)


def test_jensen_shannon_half_is_symmetric_and_others_swap() -> None:
    student, teacher = distribution(0.5, 0.3, 0.2), distribution(0.1, 0.2, 0.7)
    half = JensenShannon(0.5)
    torch.testing.assert_close(half(student, teacher)[0], half(teacher, student)[0])
    torch.testing.assert_close(JensenShannon(0.2)(student, teacher)[0], JensenShannon(0.8)(teacher, student)[0])


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5])
def test_beta_out_of_range_names_the_alternatives(beta: float) -> None:
    with pytest.raises(ValueError, match="ForwardKL"):
        JensenShannon(beta)


@pytest.mark.parametrize(
    ("divergence", "student", "teacher", "value"),
    [
        # 0 log 0 = 0: 1 log(1 / 0.5)
        (ForwardKL(), (0.5, 0.5), (1.0, 0.0), math.log(2)),
        (ReverseKL(), (1.0, 0.0), (0.5, 0.5), math.log(2)),
        # both without the last token
        (ForwardKL(), (*STUDENT, 0.0), (*TEACHER, 0.0), FORWARD),
        (ReverseKL(), (*STUDENT, 0.0), (*TEACHER, 0.0), REVERSE),
        (JensenShannon(0.25), (*STUDENT, 0.0), (*TEACHER, 0.0), JENSEN_SHANNON_QUARTER),
        # disjoint: m = 3/4 p_S + 1/4 p_T, so 1/4 log 4 + 3/4 log(4/3) = 0.562335
        (JensenShannon(0.25), (1.0, 0.0), (0.0, 1.0), 0.562335),
    ],
)
def test_probability_zero_is_finite_where_the_divergence_is(
    divergence: Divergence, student: tuple[float, ...], teacher: tuple[float, ...], value: float
) -> None:
    values, gradient = divergence(distribution(*student), distribution(*teacher))
    assert values.item() == pytest.approx(value, abs=1e-6)
    assert gradient.isfinite().all()
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("divergence", "student", "teacher"),
    [(ForwardKL(), (1.0, 0.0), (0.5, 0.5)), (ReverseKL(), (0.5, 0.5), (1.0, 0.0))],
)
def test_probability_zero_is_infinite_where_the_divergence_is(
    divergence: Divergence, student: tuple[float, ...], teacher: tuple[float, ...]
) -> None:
    assert divergence(distribution(*student), distribution(*teacher))[0].item() == math.inf


def test_small_divergences_keep_their_digits_in_float32() -> None:
    torch.manual_seed(0)
    student = (3 * torch.randn(64, 20000)).double()  # as float32 has them, so that both see the same logits
    teacher = (student + 1e-2 * torch.randn(64, 20000)).float().double()
    for divergence in (ForwardKL(), ReverseKL()):
        exact = divergence(Distribution.of(student), Distribution.of(teacher))[0]
        rounded = divergence(Distribution.of(student.float()), Distribution.of(teacher.float()))[0]
        assert 2e-5 < exact.min() < exact.max() < 2e-4  # nats, where the log-probabilities are about -14
        torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=6e-7)  # two weighted sums: 1.2e-6
