"""The losses once more, on the logits of the whole batch, with autograd: what the fused ones must agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sdft.losses import (
    AgreementProduct,
    Clipped,
    DisagreementMixture,
    Divergence,
    ForwardKL,
    GeometricMixture,
    Head,
    HeadLoss,
    InformationBound,
    JensenShannon,
    ReverseKL,
    Target,
    TopK,
    Toward,
)

N, D, V = 11, 5, 13

HEADS = {
    "plain": Head(torch.empty(0)),
    "bias": Head(torch.empty(0), bias=torch.empty(0)),
    "soft_cap": Head(torch.empty(0), soft_cap=1.5),
    "scale": Head(torch.empty(0), scale=0.3),
    "all": Head(torch.empty(0), bias=torch.empty(0), soft_cap=1.5, scale=0.3),
}
DIVERGENCES: list[Divergence] = [ForwardKL(), ReverseKL(), *map(JensenShannon, (0.5, 0.1, 0.9))]
TARGETS: list[Target] = [
    GeometricMixture(0.3),
    DisagreementMixture(0.6, 3.0),
    AgreementProduct(10, start=0.7),
    InformationBound(start=0.4),
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class Problem(NamedTuple):
    hidden: Tensor
    head: Head
    teacher_hidden: Tensor
    teacher_head: Head
    targets: Tensor
    weights: Tensor

    def leaves(self) -> list[Tensor]:
        """What a gradient is taken of."""
        return [leaf for leaf in (self.hidden, self.head.weight, self.head.bias) if leaf is not None]

    def on(self, device: str) -> Problem:
        """The same on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

        def move_head(head: Head) -> Head:
            return replace(head, weight=move(head.weight), bias=None if head.bias is None else move(head.bias))

        head, teacher_head = move_head(self.head), move_head(self.teacher_head)
        targets, weights = move(self.targets), move(self.weights)
        return Problem(move(self.hidden), head, move(self.teacher_hidden), teacher_head, targets, weights)


def make_problem(kind: str = "all", dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
    """Random student, teacher, targets and weights, of which the tokens 2 and 7 have weight 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def draw_head() -> Head:
        bias = None if HEADS[kind].bias is None else draw(V).requires_grad_()
        return replace(HEADS[kind], weight=draw(V, D).requires_grad_(), bias=bias)

    weights = draw(N).abs()
    weights[[2, 7]] = 0
    targets = torch.randint(V, (N,), generator=generator)
    return Problem(draw(N, D).requires_grad_(), draw_head(), draw(N, D), draw_head(), targets, weights)


def dense_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = head.scale * logits
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def check_against_dense(problem: Problem, fused: HeadLoss, dense: Tensor, tolerance: float) -> None:
    """Compare values per token, the loss and its gradients with a dense loss per token `(N,)`."""
    expected = (problem.weights * dense).sum()
    counted = problem.weights > 0
    close: Callable[[Tensor, Tensor], None] = lambda ours, theirs: torch.testing.assert_close(  # noqa: E731
        ours, theirs, rtol=tolerance, atol=tolerance
    )
    close(fused.values[counted], dense.detach()[counted])
    close(fused.loss, expected)
    assert (fused.values[~counted] == 0).all()
    for ours, theirs in zip(
        torch.autograd.grad(fused.loss, problem.leaves()), torch.autograd.grad(expected, problem.leaves()), strict=True
    ):
        assert theirs.abs().max() > 1e-3
        close(ours, theirs)


def kl(left: Tensor, right: Tensor) -> Tensor:
    """`KL(left || right)` of log-probabilities, dense."""
    return (left.exp() * (left - right)).sum(-1)


def dense_divergence(student: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
    """The table of the method reference (authors' code: alpha = 0, 1, between), for autograd."""
    if isinstance(divergence, ForwardKL):
        return kl(teacher, student)
    if isinstance(divergence, ReverseKL):
        return kl(student, teacher)
    if isinstance(divergence, Toward):
        return dense_divergence(student, dense_target(student, teacher, divergence.target), divergence.divergence)
    if isinstance(divergence, Clipped):
        return dense_divergence(student, teacher, divergence.divergence).clamp(max=divergence.limit)
    if isinstance(divergence, TopK):
        return torch.stack([dense_top_k(*pair, divergence) for pair in zip(student, teacher, strict=True)])
    assert isinstance(divergence, JensenShannon)
    beta = divergence.beta
    mixture = ((1 - beta) * student.exp() + beta * teacher.exp()).log()
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def dense_top_k(student: Tensor, teacher: Tensor, top_k: TopK) -> Tensor:
    """One token `(V,)` at a time, with sets and autograd."""
    by = {"student": [student], "teacher": [teacher], "union": [student, teacher]}[top_k.support]
    told_apart = sorted({token for each in by for token in each.topk(min(top_k.k, V)).indices.tolist()})
    others = sorted(set(range(V)) - set(told_apart))

    def coarse(log_probabilities: Tensor) -> Tensor:
        if not top_k.tail:
            return log_probabilities[told_apart].log_softmax(-1)
        tail = log_probabilities[others].exp().sum().log().reshape(1)
        return torch.cat([log_probabilities[told_apart], tail] if others else [log_probabilities[told_apart]])

    return dense_divergence(coarse(student), coarse(teacher), top_k.divergence)


def dense_target(student: Tensor, teacher: Tensor, target: Target) -> Tensor:
    """Log-probabilities of the targets, as their sources write them; a constant for autograd."""
    p, other = student.detach(), teacher.detach()
    if isinstance(target, GeometricMixture):
        return ((1 - target.student_share) * other + target.student_share * p).log_softmax(-1)
    if isinstance(target, AgreementProduct):
        return (other + target.start * p).log_softmax(-1)
    if isinstance(target, DisagreementMixture):
        disagreement = dense_divergence(p, other, JensenShannon(0.5))
        share = 2 * target.limit * ((target.sensitivity * disagreement).sigmoid() - 0.5)
        return ((1 - share[..., None]) * other + share[..., None] * p).log_softmax(-1)
    assert isinstance(target, InformationBound)
    low, high = torch.zeros_like(p[..., :1]), torch.ones_like(p[..., :1])
    for _ in range(60):
        middle = (low + high) / 2
        q = ((1 - middle) * p + middle * other).log_softmax(-1)
        below = (q.exp() * (other - p)).sum(-1, keepdim=True) < target.start * kl(other, p)[..., None]
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return q
