from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Divergence, ForwardKL, Head, JensenShannon, ReverseKL, distillation_loss
from tests.losses.dense import HEADS, TOLERANCE, Problem, V, check_against_dense, dense_logits, make_problem

DIVERGENCES = [ForwardKL(), ReverseKL(), JensenShannon(0.5), JensenShannon(0.1), JensenShannon(0.9)]

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


def log(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kl(left: Tensor, right: Tensor) -> Tensor:
    """`KL(left || right)` of log-probabilities, dense."""
    return (left.exp() * (left - right)).sum(-1)


def dense_divergence(student: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    """The table of the method reference (authors' code: alpha = 0, 1, between), for autograd."""
    if isinstance(divergence, ForwardKL):
        return kl(teacher, student)
    if isinstance(divergence, ReverseKL):
        return kl(student, teacher)
    assert isinstance(divergence, JensenShannon)
    beta = divergence.beta
    mixture = ((1 - beta) * student.exp() + beta * teacher.exp()).log()
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def dense_distillation(problem: Problem, divergence: Divergence, temperature: float = 1.0) -> Tensor:
    student = (dense_logits(problem.hidden, problem.head) / temperature).log_softmax(-1)
    teacher = (dense_logits(problem.teacher_hidden, problem.teacher_head) / temperature).log_softmax(-1)
    return dense_divergence(student, teacher.detach(), divergence)


@pytest.mark.parametrize(
    ("divergence", "value", "gradient"),
    [
        (ForwardKL(), FORWARD, (-0.25, 0.25)),
        (ReverseKL(), REVERSE, (-0.274653, 0.274653)),
        (JensenShannon(0.25), JENSEN_SHANNON_QUARTER, None),
    ],
)
def test_direction_by_hand(divergence: Divergence, value: float, gradient: tuple[float, float] | None) -> None:
    values, gradients = divergence(log(*STUDENT), log(*TEACHER))
    assert values.item() == pytest.approx(value, abs=1e-6)
    if gradient is not None:
        assert gradients.tolist() == [pytest.approx(gradient, abs=1e-6)]
    # And through the head, where student and teacher could be swapped once more.
    head = Head(torch.eye(2, dtype=torch.float64))
    hidden = log(*STUDENT).requires_grad_()
    result = distillation_loss(hidden, head, log(*TEACHER), head, torch.ones(1), divergence)
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
    value, gradient = divergence(logits.detach().log_softmax(-1), teacher)
    torch.testing.assert_close(value, dense.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(dense.sum(), logits)[0], rtol=1e-10, atol=1e-12)


def test_gradients_as_published() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, V, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(ForwardKL()(student, teacher)[1], student.exp() - teacher.exp())
    expected = student.exp() * (student - teacher - kl(student, teacher)[:, None])
    torch.testing.assert_close(ReverseKL()(student, teacher)[1], expected)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 4, 100, None])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", HEADS)
def test_distillation_agrees_with_autograd(
    kind: str, divergence: Divergence, dtype: torch.dtype, chunk_tokens: int | None
) -> None:
    problem = make_problem(kind, dtype)
    fused = distillation_loss(*problem[:4], problem.weights, divergence, chunk_tokens=chunk_tokens)
    check_against_dense(problem, fused, dense_distillation(problem, divergence), TOLERANCE[dtype])


@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_temperature_divides_both_logits(divergence: Divergence, temperature: float) -> None:
    problem = make_problem()
    fused = distillation_loss(*problem[:4], problem.weights, divergence, temperature, 4)
    check_against_dense(problem, fused, dense_distillation(problem, divergence, temperature), 1e-10)


def test_no_gradient_reaches_the_teacher() -> None:
    problem = make_problem()
    teacher_hidden = problem.teacher_hidden.clone().requires_grad_()
    loss = distillation_loss(
        problem.hidden, problem.head, teacher_hidden, problem.teacher_head, problem.weights, ForwardKL()
    ).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert teacher_hidden.grad is None
    assert problem.teacher_head.weight.grad is None
    assert problem.hidden.grad is not None


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck(divergence: Divergence) -> None:
    problem = make_problem()

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = replace(problem.head, weight=weight, bias=bias)
        arguments = (hidden, head, problem.teacher_hidden, problem.teacher_head, problem.weights)
        return distillation_loss(*arguments, divergence, 1.3, 4).loss

    assert torch.autograd.gradcheck(loss, tuple(problem.leaves()))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_distributions_have_zero_divergence_and_gradient(divergence: Divergence) -> None:
    both = torch.randn(4, V, dtype=torch.float64).log_softmax(-1)
    value, gradient = divergence(both.clone(), both.clone())
    torch.testing.assert_close(value, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros(4, V, dtype=torch.float64), rtol=0, atol=1e-14)


def test_jensen_shannon_is_a_rescaled_kl_towards_its_ends() -> None:
    student, teacher = log(0.5, 0.3, 0.2), log(0.1, 0.2, 0.7)
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
    student, teacher = log(0.5, 0.3, 0.2), log(0.1, 0.2, 0.7)
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
    values, gradient = divergence(log(*student), log(*teacher))
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
    assert divergence(log(*student), log(*teacher))[0].item() == math.inf


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_excluded_tokens_leave_everything_finite(divergence: Divergence) -> None:
    bias = torch.zeros(V, dtype=torch.float64)
    bias[5] = -torch.inf
    problem = make_problem("plain")
    student_head, teacher_head = (Head(head.weight, bias) for head in (problem.head, problem.teacher_head))
    result = distillation_loss(
        problem.hidden, student_head, problem.teacher_hidden, teacher_head, problem.weights, divergence
    )
    gradients = torch.autograd.grad(result.loss, [problem.hidden, problem.head.weight])
    for tensor in (result.loss, *gradients, *result.diagnostics.values()):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_diagnostics_do_not_depend_on_what_is_minimised(divergence: Divergence) -> None:
    problem = make_problem()
    diagnostics = distillation_loss(*problem[:4], problem.weights, divergence, 0.7, 4).diagnostics
    student = (dense_logits(problem.hidden, problem.head).detach() / 0.7).log_softmax(-1)
    teacher = (dense_logits(problem.teacher_hidden, problem.teacher_head).detach() / 0.7).log_softmax(-1)
    expected = {
        "kl": kl(teacher, student),
        "teacher_entropy": -(teacher.exp() * teacher).sum(-1),
        "student_entropy": -(student.exp() * student).sum(-1),
        "agreement": (student.argmax(-1) == teacher.argmax(-1)).double(),
    }
    assert diagnostics.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(diagnostics[name], values * (problem.weights > 0), msg=name)


def test_small_divergences_keep_their_digits_in_float32() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(64, 2000, dtype=torch.float64)
    teacher = logits + 1e-3 * torch.randn(64, 2000, dtype=torch.float64)
    student, teacher = logits.log_softmax(-1), teacher.log_softmax(-1)
    for divergence in (ForwardKL(), ReverseKL()):
        exact = divergence(student, teacher)[0]
        rounded = divergence(student.float(), teacher.float())[0]
        # the KL is about 5e-7 nats, the log-probabilities about 8
        torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-7)
