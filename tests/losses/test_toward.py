from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_sdft.losses import (
    AgreementProduct,
    Clipped,
    DisagreementMixture,
    Distribution,
    Divergence,
    ForwardKL,
    GeometricMixture,
    InformationBound,
    JensenShannon,
    ReverseKL,
    TopK,
    Toward,
    distillation_loss,
)
from lightning_sdft.losses.distribution import FLOOR
from tests.conftest import needs_gpu
from tests.losses.dense import (
    DIVERGENCES,
    HEADS,
    TARGETS,
    TOLERANCE,
    V,
    check_against_dense,
    dense_divergence,
    dense_logits,
    make_problem,
)
from tests.memory.conftest import allocated
from tests.pairs import pairwise

WRAPPED: list[Divergence] = [
    *DIVERGENCES,
    TopK(4),
    TopK(4, ReverseKL(), "union", tail=False),
    TopK(5, JensenShannon(), "student"),
    Clipped(1.0),
    Clipped(0.5, TopK(4)),
]
CASES = pairwise(TARGETS, WRAPPED)


def distributions(*tensors: Tensor) -> list[Distribution]:
    return [Distribution.of(each.detach().clone()) for each in tensors]


@pytest.mark.parametrize(("target", "divergence"), CASES)
def test_value_and_gradient_agree_with_autograd(target: Any, divergence: Divergence) -> None:
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 7, V, dtype=torch.float64)
    student.requires_grad_()
    dense = dense_divergence(student.log_softmax(-1), teacher.log_softmax(-1), Toward(target, divergence))
    value, gradient = Toward(target, divergence)(*distributions(student, teacher))
    torch.testing.assert_close(value, dense.detach(), rtol=1e-7, atol=1e-8)
    (expected,) = torch.autograd.grad(dense.sum(), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_within_the_most_probable_tokens(target: Any) -> None:
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 7, V, dtype=torch.float64)
    student.requires_grad_()
    inside = TopK(5, Toward(target))
    dense = dense_divergence(student.log_softmax(-1), teacher.log_softmax(-1), inside)
    value, gradient = inside(*distributions(student, teacher))
    torch.testing.assert_close(value, dense.detach(), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(gradient, torch.autograd.grad(dense.sum(), student)[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "target", "dtype", "chunk_tokens", "temperatures"),
    pairwise([*HEADS], TARGETS, [*TOLERANCE], [1, 4, None], [(1.0, None), (0.6, None), (1.7, 0.5)]),
)
def test_through_the_head(
    kind: str, target: Any, dtype: torch.dtype, chunk_tokens: int | None, temperatures: tuple[float, float | None]
) -> None:
    problem, divergence = make_problem(kind, dtype), Toward(target)
    fused = distillation_loss(*problem[:4], problem.weights, divergence, *temperatures, chunk_tokens)
    own, shown = temperatures[0], temperatures[1] or temperatures[0]
    student = (dense_logits(problem.hidden, problem.head) / own).log_softmax(-1)
    teacher = (dense_logits(problem.teacher_hidden, problem.teacher_head) / shown).log_softmax(-1).detach()
    tolerance = max(TOLERANCE[dtype], 1e-7)
    check_against_dense(problem, fused, dense_divergence(student, teacher, divergence), tolerance)
    # The diagnostics are those of the real teacher.
    plain = distillation_loss(*problem[:4], problem.weights, ForwardKL(), *temperatures, chunk_tokens)
    torch.testing.assert_close(fused.diagnostics, plain.diagnostics, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(fused.values, plain.values, rtol=1e-2)


@pytest.mark.parametrize(("target", "divergence"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_disagreement_and_excluded_tokens_stay_finite(
    target: Any, divergence: Divergence, dtype: torch.dtype
) -> None:
    logits = torch.full((2, 3, V), FLOOR, dtype=dtype)
    logits[:, :, :6] = torch.linspace(-90, 90, 6)
    logits[1] = torch.cat([logits[1, :, :6].flip(-1), logits[1, :, 6:]], -1)
    value, gradient = Toward(target, divergence)(*distributions(*logits))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient.sum(-1).abs() < 1e-4).all()


@pytest.mark.parametrize("divergence", WRAPPED)
def test_the_mixture_of_no_student_is_the_divergence_itself(divergence: Divergence) -> None:
    torch.manual_seed(0)
    both = distributions(*torch.randn(2, 7, V, dtype=torch.float64))
    for ours, theirs in zip(Toward(GeometricMixture(0.0), divergence)(*both), divergence(*both), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_targets_may_follow_each_other() -> None:
    torch.manual_seed(0)
    both = distributions(*torch.randn(2, 7, V, dtype=torch.float64))
    twice = Toward(GeometricMixture(0.5), Toward(GeometricMixture(0.5)))
    once = Toward(GeometricMixture(0.75))
    torch.testing.assert_close(twice(*both), once(*both), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_a_target_takes_the_memory_of_its_logits_and_probabilities(target: Any) -> None:
    both = distributions(*torch.randn(2, 40, 1000))
    with allocated() as plain:
        ForwardKL()(*both)
    with allocated() as wrapped:
        Toward(target)(*both)
    matrix = 40 * 1000 * 4
    assert wrapped.peak < plain.peak + 2.1 * matrix


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_on_a_gpu_it_is_what_it_is_on_a_cpu(target: Any) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 7, V, dtype=torch.float64)
    ours, theirs = (Clipped(1.0, Toward(target))(*distributions(*each)) for each in (logits.cuda(), logits))
    for there, here in zip(ours, theirs, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: inner,
        lambda inner: TopK(3, inner),
        lambda inner: Clipped(2.0, inner),
        lambda inner: Clipped(2.0, TopK(3, inner)),
        lambda inner: Toward(GeometricMixture(), inner),
    ],
)
def test_the_schedule_reaches_through_what_is_around_it(around: Any) -> None:
    target = InformationBound(0.2, 0.8, 6)
    assert around(Toward(target)).at(2) == around(Toward(target.at(2)))
    assert target.at(2).start == pytest.approx(0.4)
    assert around(ForwardKL()).at(2) == around(ForwardKL())


NESTED = Clipped(3.0, TopK(7, Toward(InformationBound(0.3), Toward(AgreementProduct(5, 0.5), ReverseKL()))))


@pytest.mark.parametrize("divergence", [NESTED, *(Toward(each) for each in TARGETS), Toward(DisagreementMixture())])
def test_checkpoints_hold_them_as_data(divergence: Divergence) -> None:
    file = io.BytesIO()
    torch.save({"divergence": divergence}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["divergence"] == divergence


def test_chosen_in_yaml_as_the_docs_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "divergences.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--divergence", type=Divergence)
    config = yaml.safe_load(example)["model"]["init_args"]
    made = parser.instantiate(parser.parse_object(config)).divergence
    assert made == Toward(InformationBound(0.25, 1.0, 150), Clipped(5.0))
    assert made.at(75) == Toward(InformationBound(0.625, 0.625, 150), Clipped(5.0))
