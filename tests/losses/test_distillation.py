from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Divergence, ForwardKL, Head, distillation_loss
from tests.losses.dense import (
    DIVERGENCES,
    HEADS,
    TOLERANCE,
    Problem,
    V,
    check_against_dense,
    dense_divergence,
    dense_logits,
    kl,
    make_problem,
)
from tests.pairs import pairwise


def dense_distillation(
    problem: Problem, divergence: Divergence, temperature: float = 1.0, teacher_temperature: float | None = None
) -> Tensor:
    student = (dense_logits(problem.hidden, problem.head) / temperature).log_softmax(-1)
    shown = dense_logits(problem.teacher_hidden, problem.teacher_head)
    teacher = (shown / (temperature if teacher_temperature is None else teacher_temperature)).log_softmax(-1)
    return dense_divergence(student, teacher.detach(), divergence)


@pytest.mark.parametrize(
    ("kind", "divergence", "dtype", "chunk_tokens"),
    pairwise([*HEADS], DIVERGENCES, [*TOLERANCE], [1, 3, 4, 100, None]),
)
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
    fused = distillation_loss(*problem[:4], problem.weights, divergence, temperature, chunk_tokens=4)
    check_against_dense(problem, fused, dense_distillation(problem, divergence, temperature), 1e-10)


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(1.0, 0.5), (1.0, 1.0), (0.7, 1.0), (2.0, 0.3)])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_teacher_may_have_a_temperature_of_its_own(
    divergence: Divergence, temperature: float, teacher_temperature: float
) -> None:
    problem = make_problem()
    fused = distillation_loss(*problem[:4], problem.weights, divergence, temperature, teacher_temperature, 4)
    dense = dense_distillation(problem, divergence, temperature, teacher_temperature)
    check_against_dense(problem, fused, dense, 1e-10)
    forward = dense_distillation(problem, ForwardKL(), temperature, teacher_temperature).detach()
    torch.testing.assert_close(fused.diagnostics["kl"], forward * (problem.weights > 0))


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
    diagnostics = distillation_loss(*problem[:4], problem.weights, divergence, 0.7, chunk_tokens=4).diagnostics
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


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_head_that_both_share_is_read_once(divergence: Divergence) -> None:
    problem = make_problem()
    shared = problem._replace(teacher_head=problem.head)
    fused = distillation_loss(*shared[:4], problem.weights, divergence, chunk_tokens=4)
    check_against_dense(shared, fused, dense_distillation(shared, divergence), 1e-10)

    def projections(teacher_head: Head) -> int:
        with torch.profiler.profile() as profile, torch.no_grad():
            distillation_loss(
                problem.hidden, problem.head, problem.teacher_hidden, teacher_head, problem.weights, divergence
            )
        return sum(event.count for event in profile.key_averages() if event.key == "aten::addmm")

    separate = projections(problem.teacher_head)
    assert projections(problem.head) == separate - 1


@pytest.mark.parametrize(("student", "teacher"), [(torch.float64, torch.float32), (torch.bfloat16, torch.float32)])
def test_the_teacher_may_have_another_precision(student: torch.dtype, teacher: torch.dtype) -> None:
    problem, exact = make_problem("all", student), make_problem("all")
    rounded = make_problem("all", teacher)
    arguments = (rounded.teacher_hidden, rounded.teacher_head, problem.weights, ForwardKL())
    fused = distillation_loss(problem.hidden, problem.head, *arguments)
    tolerance = 0.05 if student == torch.bfloat16 else 1e-5
    assert fused.loss.dtype == torch.promote_types(student, torch.float32)
    expected = (exact.weights * dense_distillation(exact, ForwardKL())).sum()
    torch.testing.assert_close(fused.loss.double(), expected, rtol=tolerance, atol=tolerance)
