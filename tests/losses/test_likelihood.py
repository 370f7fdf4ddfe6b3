from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_sdft.losses import Head, cross_entropy, dynamic_fine_tuning
from tests.losses.dense import HEADS, TOLERANCE, N, Problem, V, check_against_dense, dense_logits, make_problem
from tests.pairs import pairwise

CASES = pairwise([*HEADS], [*TOLERANCE], [1, 3, 4, 100, None])


def dense_nll(problem: Problem) -> Tensor:
    log_probabilities = dense_logits(problem.hidden, problem.head).log_softmax(-1)
    return -log_probabilities[torch.arange(N), problem.targets]


@pytest.mark.parametrize(("kind", "dtype", "chunk_tokens"), CASES)
def test_cross_entropy_agrees_with_autograd(kind: str, dtype: torch.dtype, chunk_tokens: int | None) -> None:
    problem = make_problem(kind, dtype)
    fused = cross_entropy(problem.hidden, problem.head, problem.targets, problem.weights, chunk_tokens)
    check_against_dense(problem, fused, dense_nll(problem), TOLERANCE[dtype])


@pytest.mark.parametrize(("kind", "dtype", "chunk_tokens"), CASES)
def test_dft_agrees_with_autograd_through_the_log_only(kind: str, dtype: torch.dtype, chunk_tokens: int | None) -> None:
    # https://github.com/yongliang-wu/DFT: cross-entropy times the detached probability of the target
    problem = make_problem(kind, dtype)
    fused = dynamic_fine_tuning(problem.hidden, problem.head, problem.targets, problem.weights, chunk_tokens)
    nll = dense_nll(problem)
    check_against_dense(problem, fused, (-nll).exp().detach() * nll, TOLERANCE[dtype])


def logits_problem(probabilities: list[float]) -> tuple[Tensor, Head]:
    """Hidden states that are the logits."""
    logits = torch.tensor([probabilities], dtype=torch.float64).log().requires_grad_()
    return logits, Head(torch.eye(len(probabilities), dtype=torch.float64))


def test_values_and_gradients_by_hand() -> None:
    # p = (1/2, 1/4, 1/4), the target is token 1: -log p = log 4; gradient p - onehot = (1/2, -3/4, 1/4).
    hidden, head = logits_problem([0.5, 0.25, 0.25])
    target, weight = torch.tensor([1]), torch.ones(1)
    sft = cross_entropy(hidden, head, target, weight)
    assert sft.loss.item() == pytest.approx(math.log(4))
    assert torch.autograd.grad(sft.loss, hidden)[0].tolist() == [pytest.approx([0.5, -0.75, 0.25])]
    # DFT: 1/4 log 4; gradient p_target (p - onehot) = (1/8, -3/16, 1/16). Without the stop-gradient it would be
    # p_target (1 + log p_target) (onehot - p) * -1 = -0.0966 (1/2, -3/4, 1/4), of the opposite sign.
    dft = dynamic_fine_tuning(hidden, head, target, weight)
    assert dft.loss.item() == pytest.approx(math.log(4) / 4)
    assert torch.autograd.grad(dft.loss, hidden)[0].tolist() == [pytest.approx([1 / 8, -3 / 16, 1 / 16])]


def test_dft_gradient_is_that_of_cross_entropy_times_the_probability_of_each_target() -> None:
    problem = make_problem()
    arguments = (problem.hidden, problem.head, problem.targets, problem.weights)
    (sft,) = torch.autograd.grad(cross_entropy(*arguments).loss, problem.hidden)
    (dft,) = torch.autograd.grad(dynamic_fine_tuning(*arguments).loss, problem.hidden)
    torch.testing.assert_close(dft, (-dense_nll(problem)).exp().detach()[:, None] * sft)
    assert not torch.allclose(dft, sft)


@pytest.mark.parametrize("loss", [cross_entropy, dynamic_fine_tuning])
def test_diagnostics_are_nll_and_entropy(loss: type) -> None:
    problem = make_problem()
    diagnostics = loss(problem.hidden, problem.head, problem.targets, problem.weights, 3).diagnostics
    counted = problem.weights > 0
    torch.testing.assert_close(diagnostics["nll"][counted], dense_nll(problem).detach()[counted])
    entropy = torch.distributions.Categorical(logits=dense_logits(problem.hidden, problem.head).detach()).entropy()
    torch.testing.assert_close(diagnostics["entropy"][counted], entropy[counted])


@pytest.mark.parametrize("loss", [cross_entropy, dynamic_fine_tuning])
def test_excluded_tokens_leave_everything_finite(loss: type) -> None:
    bias = torch.zeros(V, dtype=torch.float64)
    bias[5] = -torch.inf
    problem = make_problem("plain")
    head = Head(problem.head.weight, bias)
    targets = torch.where(problem.targets == 5, 6, problem.targets)
    result = loss(problem.hidden, head, targets, problem.weights)
    gradients = torch.autograd.grad(result.loss, [problem.hidden, head.weight])
    for tensor in (result.loss, *gradients, *result.diagnostics.values()):
        assert tensor.isfinite().all()
    assert (gradients[1][5] == 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, dynamic_fine_tuning])
def test_extreme_logits_stay_finite(loss: type) -> None:
    hidden = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    result = loss(hidden, Head(torch.eye(3)), torch.tensor([2]), torch.ones(1))
    (gradient,) = torch.autograd.grad(result.loss, hidden)
    assert result.loss.isfinite()
    assert gradient.isfinite().all()
