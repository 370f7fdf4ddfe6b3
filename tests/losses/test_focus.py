from __future__ import annotations

import math

import pytest
import torch

from lightning_sdft.errors import SettingError
from lightning_sdft.losses import ForwardKL, TokenFocus, distillation_loss, token_weights
from tests.losses.dense import N, check_against_dense, dense_divergence, dense_logits, make_problem

LENGTHS = [4, 1, 6]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_factors_follow_the_scores_and_keep_the_weight_of_each_completion(power: float, skip: int) -> None:
    torch.manual_seed(0)
    scores = torch.rand(N, dtype=torch.float64)
    factors = TokenFocus(power)(scores, LENGTHS, skip)
    for score, factor in zip(scores.split(LENGTHS), factors.split(LENGTHS), strict=True):
        assert (factor[:skip] == 1).all()
        if len(score) > skip:
            expected = score[skip:] ** power / (score[skip:] ** power).mean()
            torch.testing.assert_close(factor[skip:], expected)
            assert factor[skip:].mean().item() == pytest.approx(1)


def test_by_hand() -> None:
    assert TokenFocus(0.5)(torch.tensor([9.0, 4.0, 1.0]), [3]).tolist() == pytest.approx([1.5, 1.0, 0.5])


def test_scores_that_are_zero_negative_infinite_or_tiny() -> None:
    scores = torch.tensor([0.0, 0.0, -1.0, 2.0, math.inf, 5.0, 1e-30, 3e-30])
    assert TokenFocus(2.0)(scores, [2, 2, 2, 2]).tolist() == pytest.approx([1, 1, 0, 2, 2, 0, 0.2, 1.8])
    assert TokenFocus()(torch.ones(2), [0, 2]).tolist() == [1, 1]


def test_no_gradient_flows_into_the_scores() -> None:
    scores = torch.rand(3, requires_grad=True)
    assert not TokenFocus()(scores, [3]).requires_grad


def test_micro_batches_give_the_mean_over_the_group() -> None:
    torch.manual_seed(0)
    scores, values = torch.rand(2, sum(LENGTHS) + 1).split(1)
    lengths, focus = [*LENGTHS, 1], TokenFocus()

    def loss(first: int, last: int) -> torch.Tensor:
        part, start = lengths[first:last], sum(lengths[:first])
        mine = slice(start, start + sum(part))
        weights = token_weights(part, "sequence", group_lengths=lengths, importance=focus(scores[0, mine], part))
        return (weights * values[0, mine]).sum()

    torch.testing.assert_close((loss(0, 2) + loss(2, 4)) / 2, loss(0, 4))


def test_on_the_disagreement_of_student_and_teacher() -> None:
    problem = make_problem()
    with torch.no_grad():
        scores = distillation_loss(*problem[:4], problem.weights, ForwardKL()).values
    focused = problem._replace(weights=problem.weights * TokenFocus()(scores, LENGTHS))
    fused = distillation_loss(*focused[:4], focused.weights, ForwardKL(), chunk_tokens=4)
    student = dense_logits(problem.hidden, problem.head).log_softmax(-1)
    teacher = dense_logits(problem.teacher_hidden, problem.teacher_head).detach().log_softmax(-1)
    check_against_dense(focused, fused, dense_divergence(student, teacher, ForwardKL()), 1e-10)


def test_the_power_is_not_negative() -> None:
    with pytest.raises(SettingError, match=r"TokenFocus: power=-1.0 must be a number >= 0"):
        TokenFocus(-1.0)
