from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_sdft.errors import SettingError
from lightning_sdft.losses import (
    AgreementProduct,
    DisagreementMixture,
    Distribution,
    Divergence,
    ForwardKL,
    GeometricMixture,
    InformationBound,
    JensenShannon,
    ReverseKL,
    Target,
    Toward,
)
from lightning_sdft.losses.distribution import FLOOR
from tests.losses.dense import TARGETS, V, dense_target


def logits(scale: float = 3.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return scale * torch.randn(9, V).to(dtype), scale * torch.randn(9, V).to(dtype)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_targets_agree_with_their_formulas(target: Target, scale: float) -> None:
    student, teacher = logits(scale)
    made = target(Distribution.of(student), Distribution.of(teacher))
    expected = dense_target(student.log_softmax(-1), teacher.log_softmax(-1), target)
    close(made.probabilities, expected.exp(), 1e-7)
    close(made.log_probabilities, expected, 1e-7)
    close(made.log_probabilities.exp().sum(-1), torch.ones(9).double(), 1e-12)


def test_targets_by_hand() -> None:
    # Student (1/2, 1/2), teacher (4/5, 1/5), whose logits differ by log 4.
    student = Distribution.of(torch.zeros(1, 2, dtype=torch.float64))
    teacher = Distribution.of(torch.tensor([[4.0, 1.0]], dtype=torch.float64).log())
    # Halfway they differ by log 2.
    assert GeometricMixture(0.5)(student, teacher).probabilities.tolist() == [pytest.approx([2 / 3, 1 / 3])]
    # m = (13/20, 7/20); JSD = 1/2 (4/5 log(16/13) + 1/5 log(4/7) + 1/2 log(10/13) + 1/2 log(10/7)) = 0.050672 nats;
    # a = 2 * 0.5 (sigmoid(10 * 0.050672) - 1/2) = 0.124032, so the logits differ by 0.875968 log 4 = 1.214349.
    mixture = DisagreementMixture(limit=0.5, sensitivity=10.0)(student, teacher)
    assert mixture.logits.diff().abs().item() == pytest.approx(1.214349, abs=1e-5)
    # The student is uniform, so the product is the teacher; a student like the teacher sharpens it to 16 : 1.
    assert AgreementProduct(1, 1.0)(student, teacher).probabilities.tolist() == [pytest.approx([0.8, 0.2])]
    assert AgreementProduct(1, 1.0)(teacher, teacher).probabilities.tolist() == [pytest.approx([16 / 17, 1 / 17])]
    # d = (log 8/5, log 2/5), KL(T || p) = 4/5 log(8/5) + 1/5 log(2/5) = 0.192745. Half of it: q log(8/5) + (1 - q)
    # log(2/5) = 0.096372, so q = (0.096372 + 0.916291) / log 4 = 0.730482.
    bound = InformationBound(start=0.5)(student, teacher)
    assert bound.probabilities[0, 0].item() == pytest.approx(0.730482, abs=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_equal_distributions_need_no_target(target: Target) -> None:
    both = Distribution.of(logits()[0])
    if isinstance(target, AgreementProduct):
        close(target(both, both).log_probabilities, (1.7 * both.logits).log_softmax(-1))
    else:
        close(target(both, both).log_probabilities, both.log_probabilities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_extreme_disagreement_stays_finite(target: Target, dtype: torch.dtype) -> None:
    student, teacher = torch.full((2, 5, V), FLOOR, dtype=dtype)
    student[0, :3], teacher[0, 1:4] = 0.0, 0.0  # partly and not at all on the same tokens
    student[1, :3], teacher[1, 3:6] = 0.0, 0.0
    student[2, :6], teacher[2, :3] = 0.0, 0.0
    student[3, :3], teacher[3, :6] = 0.0, 0.0
    student[4, :6], teacher[4, :6] = torch.linspace(-90, 90, 6), torch.linspace(90, -90, 6)
    made = target(Distribution.of(student), Distribution.of(teacher))
    for tensor in (made.probabilities, made.logits, made.log_probabilities, made.entropy()):
        assert tensor.isfinite().all()
    close(made.probabilities.sum(-1), torch.ones(5, dtype=dtype), 1e-6)
    possible = (student > FLOOR) & (teacher > FLOOR)
    both = [0, 2, 3]
    assert (made.probabilities[both][~possible[both]] == 0).all()  # what one of them excludes, the target excludes


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 0.95])
@pytest.mark.parametrize(
    ("kind", "spread"),
    [("noise", 1e-2), ("noise", 1.0), ("apart", 3.0), ("apart", 30.0), ("peak", 40.0), ("dip", 40.0)],
)
def test_information_bound_is_met_exactly_whatever_the_distributions(kind: str, spread: float, share: float) -> None:
    torch.manual_seed(0)
    student, noise = 3 * torch.randn(16, 500, dtype=torch.float64), spread * torch.randn(16, 500, dtype=torch.float64)
    teacher = {"noise": student + noise, "apart": noise, "peak": student.clone(), "dip": student.clone()}[kind]
    if kind in ("peak", "dip"):
        teacher[:, 0] += spread if kind == "peak" else -spread
    student = spread / 3 * student if kind == "apart" else student
    both = Distribution.of(student), Distribution.of(teacher)
    target = InformationBound(start=share)(*both)
    ratio = both[1].log_probabilities - both[0].log_probabilities
    carried = (target.probabilities * ratio).sum(-1)
    close(carried / (1 + ratio.abs().amax(-1)), share * both[1].mean(ratio) / (1 + ratio.abs().amax(-1)), 1e-7)
    # The same in float32, as close as it can be: within its digits of the ratios.
    rounded = InformationBound(start=share)(*(Distribution.of(each.logits.float()) for each in both))
    assert (rounded.probabilities - target.probabilities).abs().sum(-1).max() < 2e-4


def test_information_bound_is_the_closest_that_carries_enough() -> None:
    student, teacher = logits()
    p, other = Distribution.of(student), Distribution.of(teacher)
    ratio = other.log_ratio(p)
    target = InformationBound(start=0.5)(p, other)
    torch.manual_seed(1)
    compared = 0
    for _ in range(50):
        # Another distribution nearby, tilted until it carries enough.
        q = Distribution.of(target.logits + 0.1 * torch.randn_like(student))
        tilt = ((target.probabilities - q.probabilities) * ratio).sum(-1) / (q.mean(ratio**2) - q.mean(ratio) ** 2)
        q = Distribution.of(q.logits + 1.1 * tilt.clamp(min=0)[:, None] * ratio)
        enough = q.mean(ratio) >= target.mean(ratio)
        compared += int(enough.sum())
        assert (q.mean(q.log_ratio(p)) > target.mean(target.log_ratio(p)))[enough].all()
    assert compared > 250  # of 450


def test_ends_of_the_information_bound() -> None:
    p, other = (Distribution.of(each) for each in logits())
    assert InformationBound(start=1.0)(p, other) is other
    # With no share wanted, the target is as far from the student as from the teacher, and not the student.
    halfway = InformationBound(start=0.0)(p, other)
    close(halfway.mean(halfway.log_ratio(p)), halfway.mean(halfway.log_ratio(other)))
    assert (halfway.mean(halfway.log_ratio(p)) > 0.01).all()
    near = Distribution.of(p.logits + 1e-3 * other.logits)
    for share in (0.0, 0.25, 0.5):
        assert InformationBound(start=share)(p, near).logits.sub(p.logits).div(1e-3 * other.logits).median().item() == (
            pytest.approx((1 + share) / 2, abs=1e-2)
        )


def test_halfway_where_the_student_excludes_what_the_teacher_allows() -> None:
    student = Distribution.of(torch.tensor([[1.0, 0.0, FLOOR]]))
    teacher = Distribution.of(torch.tensor([[0.0, 1.0, 0.5]]))
    target = InformationBound(start=0.0)(student, teacher)
    assert target.probabilities[0, 2] == 0
    assert target.mean(teacher.log_ratio(student)).item() == pytest.approx(0, abs=1e-5)


def test_information_bound_of_a_token_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    spread = torch.tensor([0.1, 30.0] * 8)[:, None]  # a token in two needs more steps
    student, teacher = spread * torch.randn(2, 16, 500)
    together = InformationBound(start=0.3)(Distribution.of(student), Distribution.of(teacher)).logits
    apart = InformationBound(start=0.3)(Distribution.of(student[::2]), Distribution.of(teacher[::2])).logits
    assert torch.equal(apart, together[::2])


def test_a_mixture_only_scales_the_gradient_of_reverse_kl() -> None:
    both = [Distribution.of(each) for each in logits()]
    close(Toward(GeometricMixture(0.3), ReverseKL())(*both)[1], 0.7 * ReverseKL()(*both)[1])


def test_disagreement_adds_the_student_up_to_the_limit() -> None:
    student = Distribution.of(torch.tensor([[0.0, 0.0], [9.0, 0.0], [90.0, 0.0]], dtype=torch.float64))
    teacher = Distribution.of(torch.tensor([[0.0, 0.1], [0.0, 9.0], [0.0, 90.0]], dtype=torch.float64))
    made = DisagreementMixture(limit=0.2, sensitivity=50.0)(student, teacher).logits
    shares = (made - teacher.logits)[:, 0] / (student.logits - teacher.logits)[:, 0].clamp(min=1)
    assert shares[0] < 0.01
    assert shares[1:].tolist() == pytest.approx([0.2, 0.2], abs=1e-6)  # the JSD is at most log 2


def test_rounding_never_goes_beyond_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(64, 1000)
    student = teacher + 1e-5 * torch.randn(64, 1000)
    student[:, 0], teacher[:, 0] = FLOOR, -60.0
    both = Distribution.of(student), Distribution.of(teacher)
    assert JensenShannon()(*both)[0].min() < 0  # by rounding
    made = DisagreementMixture()(*both)
    assert (made.probabilities[:, 0] < 1e-20).all()
    close(made.probabilities, both[1].probabilities, 1e-6)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.25), (1, 0.255), (75, 0.625), (149, 0.995), (150, 1.0), (10**6, 1.0)]
)
def test_schedule_of_the_information_bound(step: int, value: float) -> None:
    at = InformationBound().at(step)
    assert at.start == at.end == pytest.approx(value, abs=1e-12)
    assert at == InformationBound().at(step)
    assert at.at(0) == at  # it stays where it is


def test_schedule_of_the_product() -> None:
    assert [AgreementProduct(4, 0.8).at(step).start for step in range(6)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0])
    both = [Distribution.of(each) for each in logits()]
    assert AgreementProduct(4).at(4)(*both) is both[1]


@pytest.mark.parametrize("target", [GeometricMixture(), DisagreementMixture()])
def test_others_are_the_same_at_every_step(target: Target) -> None:
    assert target.at(7) is target


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()])
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
def test_targets_and_divergences_leave_the_distributions_alone(target: Target, divergence: Divergence) -> None:
    both = [Distribution.of(each) for each in logits()]
    before = [each.clone() for pair in both for each in vars(pair).values()]
    Toward(target, divergence)(*both)
    assert all(
        torch.equal(*pair) for pair in zip(before, (v for pair in both for v in vars(pair).values()), strict=True)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeometricMixture(1.0), r"student_share=1.0 must be a number within \[0, 1\)"),
        (lambda: DisagreementMixture(limit=1.0), "limit=1.0"),
        (lambda: DisagreementMixture(sensitivity=0.0), "sensitivity=0.0"),
        (lambda: InformationBound(start=-0.1), "start=-0.1"),
        (lambda: InformationBound(end=math.nan), "end=nan"),
        (lambda: InformationBound(steps=0), "steps=0"),
        (lambda: AgreementProduct(0), "steps=0"),
        (lambda: AgreementProduct(3, start=-1.0), "start=-1.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()  # type: ignore[operator]
