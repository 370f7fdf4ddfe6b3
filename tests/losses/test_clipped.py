from __future__ import annotations

import math

import pytest
import torch

from lightning_sdft.errors import SettingError
from lightning_sdft.losses import Clipped, Distribution, Divergence, ForwardKL, ReverseKL, TopK, distillation_loss
from lightning_sdft.losses.distribution import FLOOR
from tests.losses.dense import DIVERGENCES, check_against_dense, dense_divergence, dense_logits, make_problem


@pytest.mark.parametrize("divergence", [*DIVERGENCES, TopK(4), TopK(4, ReverseKL(), "union")])
def test_tokens_below_the_limit_are_as_without_it_and_others_stop(divergence: Divergence) -> None:
    torch.manual_seed(0)
    both = [Distribution.of(3 * torch.randn(50, 13, dtype=torch.float64)) for _ in range(2)]
    value, gradient = divergence(*both)
    limit = value.median().item()
    clipped, stopped = Clipped(limit, divergence)(*both)
    below = value <= limit
    assert 0 < below.sum() < 50
    assert torch.equal(clipped[below], value[below])
    assert torch.equal(stopped[below], gradient[below])
    assert (clipped[~below] == limit).all()
    assert (stopped[~below] == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_through_the_head(divergence: Divergence) -> None:
    problem = make_problem()
    values = distillation_loss(*problem[:4], problem.weights, divergence).values[problem.weights > 0]
    clipped = Clipped(1.001 * values.median().item(), divergence)
    fused = distillation_loss(*problem[:4], problem.weights, clipped, chunk_tokens=4)
    student = dense_logits(problem.hidden, problem.head).log_softmax(-1)
    teacher = dense_logits(problem.teacher_hidden, problem.teacher_head).detach().log_softmax(-1)
    check_against_dense(problem, fused, dense_divergence(student, teacher, clipped), 1e-10)
    full = distillation_loss(*problem[:4], problem.weights, ForwardKL())
    torch.testing.assert_close(fused.diagnostics["kl"], full.values)  # the diagnostic has no limit


@pytest.mark.parametrize(("divergence", "excluded"), [(ForwardKL(), 0), (ReverseKL(), 1)])
def test_an_infinite_divergence_is_the_limit_without_gradient(divergence: Divergence, excluded: int) -> None:
    logits = torch.zeros(2, 1, 4)
    logits[excluded, :, 2:] = FLOOR
    both = [Distribution.of(each) for each in logits]
    assert divergence(*both)[0].item() == math.inf
    value, gradient = Clipped(5.0, divergence)(*both)
    assert value.item() == 5.0
    assert gradient.tolist() == [[0.0] * 4]


def test_it_is_never_negative_where_a_limit_per_entry_is() -> None:
    student, teacher = (Distribution.of(torch.tensor([each]).log()) for each in ([0.1, 0.9], [0.9, 0.1]))
    summands = teacher.probabilities * teacher.log_ratio(student)
    assert summands.clamp(max=0.05).sum() < 0
    assert Clipped(0.05)(student, teacher)[0].item() == pytest.approx(0.05)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_the_limit_is_positive(limit: float) -> None:
    with pytest.raises(SettingError, match="Clipped: limit="):
        Clipped(limit)
