from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_sdft.losses import (
    ForwardKL,
    Head,
    HeadLoss,
    cross_entropy,
    distillation_loss,
    dynamic_fine_tuning,
    head_loss,
)
from lightning_sdft.losses.fused import TokenLoss
from tests.conftest import needs_gpu
from tests.losses.dense import HEADS, TOLERANCE, D, N, Problem, V, check_against_dense, dense_logits, make_problem
from tests.pairs import pairwise


def half_square(tokens: Tensor, logits: Tensor) -> TokenLoss:
    """`sum_v z_v^2 / 2`, whose gradient in the logits is the logits."""
    value = logits.square().sum(-1) / 2
    return TokenLoss(value, logits.clone(), {"position": tokens.to(logits.dtype)})


def fused_losses(problem: Problem, hidden: Tensor, teacher: Tensor, weights: Tensor) -> dict[str, HeadLoss]:
    head, targets, divergence = problem.head, problem.targets, ForwardKL()
    return {
        "cross_entropy": cross_entropy(hidden, head, targets, weights, 4),
        "dft": dynamic_fine_tuning(hidden, head, targets, weights, 4),
        "distillation": distillation_loss(
            hidden, head, teacher, problem.teacher_head, weights, divergence, chunk_tokens=4
        ),
    }


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.data_ptr() not in given]
        self.elements = max([self.elements, *(leaf.numel() for leaf in made)])
        return result


@pytest.mark.parametrize(("kind", "dtype", "chunk_tokens"), pairwise([*HEADS], [*TOLERANCE], [1, 3, 4, 9, 100, None]))
def test_any_token_loss_agrees_with_autograd_on_dense_logits(
    kind: str, dtype: torch.dtype, chunk_tokens: int | None
) -> None:
    problem = make_problem(kind, dtype)
    fused = head_loss(problem.hidden, problem.head, problem.weights, half_square, chunk_tokens=chunk_tokens)
    dense = dense_logits(problem.hidden, problem.head).square().sum(-1) / 2
    check_against_dense(problem, fused, dense, TOLERANCE[dtype])
    positions = torch.arange(N, dtype=dtype) * (problem.weights > 0)
    assert fused.diagnostics["position"].tolist() == positions.tolist()


@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_the_logits_are_multiplied(context: Any, name: str) -> None:
    problem = make_problem()
    expected = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)[name]
    with torch.profiler.profile() as profile, context():
        result = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)
    assert not result[name].loss.requires_grad
    assert torch.equal(result[name].loss, expected.loss)
    # 9 tokens in 3 chunks; student's logits three times, the teacher's once
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::addmm") == 3 * 4


@pytest.mark.parametrize("kind", HEADS)
def test_gradient_is_the_slope_of_the_loss(kind: str) -> None:
    problem = make_problem(kind)

    def loss(shift: float) -> Tensor:
        hidden, weight, *bias = (leaf + shift * direction for leaf, direction in zip(leaves, directions, strict=True))
        head = Head(weight, bias[0] if bias else None, problem.head.soft_cap, problem.head.scale)
        return head_loss(hidden, head, problem.weights, half_square, chunk_tokens=4).loss

    leaves = problem.leaves()
    directions = [torch.randn_like(leaf) for leaf in leaves]
    slope = sum(
        (gradient * direction).sum()
        for gradient, direction in zip(torch.autograd.grad(loss(0.0), leaves), directions, strict=True)
    )
    torch.testing.assert_close((loss(1e-5) - loss(-1e-5)).detach() / 2e-5, torch.as_tensor(slope), rtol=1e-6, atol=0)


def test_upstream_gradient_scales_all_gradients() -> None:
    problem = make_problem()
    once, tripled = (
        torch.autograd.grad(
            factor * head_loss(problem.hidden, problem.head, problem.weights, half_square).loss, problem.leaves()
        )
        for factor in (1, 3)
    )
    for single, triple in zip(once, tripled, strict=True):
        torch.testing.assert_close(3 * single, triple)


def test_a_second_backward_pass_is_refused() -> None:
    problem = make_problem()
    loss = head_loss(problem.hidden, problem.head, problem.weights, half_square).loss
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="call the loss once per backward pass"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
def test_masked_tokens_are_skipped_even_if_not_a_number(name: str) -> None:
    problem = make_problem()
    masked = problem.weights == 0
    clean = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)[name]
    poison = masked[:, None].expand(N, D)
    hidden = problem.hidden.detach().masked_fill(poison, torch.nan).requires_grad_()
    teacher = problem.teacher_hidden.masked_fill(poison, torch.nan)
    poisoned = fused_losses(problem, hidden, teacher, problem.weights)[name]
    assert poisoned.loss.item() == clean.loss.item()
    assert poisoned.diagnostics.keys() == clean.diagnostics.keys()
    for values in poisoned.diagnostics.values():
        assert (values[masked] == 0).all()
        assert values.isfinite().all()
    leaves = [hidden, *problem.leaves()[1:]]
    gradients = torch.autograd.grad(poisoned.loss, leaves)
    for ours, theirs in zip(gradients, torch.autograd.grad(clean.loss, problem.leaves()), strict=True):
        assert torch.equal(ours, theirs)
    assert (gradients[0][masked] == 0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
def test_loss_of_nothing_is_zero_with_zero_gradients(name: str) -> None:
    problem = make_problem()
    result = fused_losses(problem, problem.hidden, problem.teacher_hidden, torch.zeros(N))[name]
    assert result.loss.item() == 0
    assert result.values.tolist() == [0] * N
    for gradient in torch.autograd.grad(result.loss, problem.leaves()):
        assert (gradient == 0).all()


def test_frozen_head_gets_no_gradient_and_hidden_states_still_do() -> None:
    problem = make_problem()
    problem.head.weight.requires_grad_(False)
    assert problem.head.bias is not None
    problem.head.bias.requires_grad_(False)
    with LargestTensor() as largest:
        loss = head_loss(problem.hidden, problem.head, problem.weights, half_square, chunk_tokens=1).loss
        loss.backward()  # type: ignore[no-untyped-call]
    assert problem.head.weight.grad is None
    assert problem.head.bias.grad is None
    expected = (problem.weights * dense_logits(problem.hidden, problem.head).square().sum(-1) / 2).sum()
    torch.testing.assert_close(problem.hidden.grad, torch.autograd.grad(expected, problem.hidden)[0])
    assert largest.elements < V * D  # a head gradient was never formed


def test_tied_weight_collects_both_gradients() -> None:
    problem = make_problem("plain")
    weight, inputs = problem.head.weight, torch.arange(N) % V
    fused = head_loss(weight[inputs].tanh(), problem.head, problem.weights, half_square, chunk_tokens=4).loss
    dense = dense_logits(weight[inputs].tanh(), problem.head).square().sum(-1) / 2
    expected = torch.autograd.grad((problem.weights * dense).sum(), weight)
    torch.testing.assert_close(torch.autograd.grad(fused, weight), expected, rtol=1e-10, atol=1e-10)


def test_no_graph_without_need() -> None:
    problem = make_problem()
    with torch.no_grad():
        assert not head_loss(problem.hidden, problem.head, problem.weights, half_square).loss.requires_grad


@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
def test_autocast_to_bfloat16(name: str) -> None:
    problem = make_problem("all", torch.float32)
    exact = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)[name].loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)[name].loss
    assert rounded.dtype == torch.float32
    assert rounded.item() != exact.item()  # products were in bfloat16
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)
    for ours, theirs in zip(
        torch.autograd.grad(rounded, problem.leaves()), torch.autograd.grad(exact, problem.leaves()), strict=True
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.02 * theirs.abs().max().item())


def test_bfloat16_weights_have_a_float32_loss() -> None:
    problem, exact = make_problem("all", torch.bfloat16), make_problem("all", torch.float32)
    loss = fused_losses(problem, problem.hidden, problem.teacher_hidden, problem.weights)["distillation"].loss
    reference = fused_losses(exact, exact.hidden, exact.teacher_hidden, exact.weights)["distillation"].loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference, rtol=0.05, atol=0.05)
    for ours, theirs in zip(
        torch.autograd.grad(loss, problem.leaves()), torch.autograd.grad(reference, exact.leaves()), strict=True
    ):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.05 * theirs.abs().max().item())


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
@pytest.mark.parametrize(
    ("dtype", "autocast", "tolerance"),
    [
        (torch.float64, None, 1e-10),
        (torch.float32, None, 1e-4),
        (torch.bfloat16, None, 0.05),
        (torch.float32, torch.bfloat16, 0.05),
        (torch.float32, torch.float16, 0.01),
    ],
)
def test_on_a_gpu_it_is_what_it_is_on_a_cpu(
    dtype: torch.dtype, autocast: torch.dtype | None, tolerance: float, name: str
) -> None:
    """Where narrow factors are multiplied into a wide result."""
    problem, exact = make_problem("all", dtype), make_problem("all")
    there = problem.on("cuda")
    with torch.autocast("cuda", dtype=autocast, enabled=autocast is not None):
        fused = fused_losses(there, there.hidden, there.teacher_hidden, there.weights)[name]
    reference = fused_losses(exact, exact.hidden, exact.teacher_hidden, exact.weights)[name]
    assert fused.loss.dtype == torch.promote_types(dtype, torch.float32)
    gradients = torch.autograd.grad(fused.loss, there.leaves())
    expected = torch.autograd.grad(reference.loss, exact.leaves())
    assert [each.dtype for each in gradients] == [dtype] * len(gradients)
    pairs = [(fused.loss, reference.loss), (fused.values, reference.values), *zip(gradients, expected, strict=True)]
    for ours, theirs in pairs:
        assert ours.is_cuda
        scale = theirs.detach().abs().max().item()
        torch.testing.assert_close(
            ours.detach().cpu().double(), theirs.detach(), rtol=tolerance, atol=tolerance * scale
        )


@pytest.mark.parametrize("name", ["cross_entropy", "dft", "distillation"])
def test_no_tensor_of_all_logits_ever_exists(name: str) -> None:
    tokens, width, vocabulary, chunk = 2048, 16, 8192, 64
    hidden = torch.randn(tokens, width, requires_grad=True)
    head = Head(torch.randn(vocabulary, width, requires_grad=True), torch.zeros(vocabulary, requires_grad=True))
    targets = torch.randint(vocabulary, (tokens,))
    weights = torch.full((tokens,), 1 / tokens)
    with LargestTensor() as largest:
        if name == "distillation":
            teacher = Head(head.weight.detach() + 1)
            loss = distillation_loss(
                hidden, head, hidden.detach(), teacher, weights, ForwardKL(), chunk_tokens=chunk
            ).loss
        else:
            function = cross_entropy if name == "cross_entropy" else dynamic_fine_tuning
            loss = function(hidden, head, targets, weights, chunk).loss
        loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert 0 < largest.elements <= max(2 * chunk * vocabulary, vocabulary * width, tokens * width)
    assert largest.elements < tokens * vocabulary / 8


def test_default_chunk_is_bounded() -> None:
    sizes: list[int] = []

    def record(tokens: Tensor, logits: Tensor) -> TokenLoss:
        sizes.append(logits.numel())
        return half_square(tokens, logits)

    hidden, head = torch.randn(40, 1), Head(torch.randn(2**20, 1))
    with LargestTensor() as largest:
        head_loss(hidden, head, torch.ones(40), record)
    assert largest.elements == 16 * 2**20  # the chunk's logits
    assert sizes == [2**20] * 40  # a token at a time, so that it stays in the cache
