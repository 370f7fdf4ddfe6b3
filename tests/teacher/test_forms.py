"""What every form of copied teacher does alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.teacher import CompensatedTeacher, FullTeacher, OffloadedTeacher
from tests.teacher.conftest import SEQUENCES, Parent, jump, same, weights

RATE = 0.01

# The average


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_of_a_moving_student(form: type[FullTeacher], llama: Policy, dtype: torch.dtype) -> None:
    llama.to(dtype)
    teacher = form(llama)
    expected, start = weights(llama), weights(llama)
    for step in range(100):
        jump(llama, 0.05, seed=step)
        teacher.update_(llama, RATE)
        expected = [RATE * ours + (1 - RATE) * theirs for ours, theirs in zip(weights(llama), expected, strict=True)]
    for ours, average, first in zip(weights(teacher), expected, start, strict=True):
        torch.testing.assert_close(ours, average, rtol=1e-6, atol=1e-6)
        assert (average - first).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float32, 0.02), (torch.float32, 1e-3), (torch.float32, 1e-4), (torch.bfloat16, 0.02)]
)
def test_average_closes_in_on_a_student_that_jumped_once(
    form: type[FullTeacher], llama: Policy, dtype: torch.dtype, share: float
) -> None:
    # 100 updates close 1 - 0.99^100 = 63.4% of the gap. Of these jumps bfloat16 would close 2.6%, 0.1%, 0.0% and 2.7%,
    # and two bfloat16 numbers for each weight 63.3%, 50.8%, 14.8% and 63.4%.
    llama.to(dtype)
    teacher = form(llama)
    start = weights(teacher)
    jump(llama, share)
    for _ in range(100):
        teacher.update_(llama, RATE)
    moved = sum((now - before).abs().sum() for now, before in zip(weights(teacher), start, strict=True))
    gap = sum((there - before).abs().sum() for there, before in zip(weights(llama), start, strict=True))
    assert float(moved / gap) == pytest.approx(1 - 0.99**100, abs=0.005)


def test_every_form_averages_as_float32_does(form: type[FullTeacher], llama: Policy) -> None:
    exact, teacher = FullTeacher(llama), form(llama)
    for step in range(30):
        jump(llama, 0.01, seed=step)
        for each in (exact, teacher):
            each.update_(llama, RATE)
    assert same(weights(teacher), weights(exact))


def test_first_update_is_an_average_already(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    start = weights(llama)
    jump(llama, 0.5)
    teacher.update_(llama, 0.1)
    for ours, before, now in zip(weights(teacher), start, weights(llama), strict=True):
        torch.testing.assert_close(ours, 0.1 * now + 0.9 * before, rtol=1e-6, atol=1e-6)


def test_rate_one_is_the_student(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    jump(llama, 0.5)
    teacher.update_(llama, 1.0)
    assert same(weights(teacher), weights(llama))


def test_update_leaves_the_student_alone(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    jump(llama, 0.5)
    before = weights(llama)
    teacher.update_(llama, 0.5)
    assert same(weights(llama), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in llama.parameters())


def test_tied_weight_moves_once(form: type[FullTeacher], gpt2: Policy) -> None:
    teacher = form(gpt2)
    assert teacher.policy.head.weight is teacher.policy.model.get_input_embeddings().weight
    assert len(list(teacher.weights())) == len(list(gpt2.parameters()))
    before = weights(gpt2)
    with torch.no_grad():
        gpt2.head.weight.add_(1)
    teacher.update_(gpt2, 0.1)
    moved = [float((now - start).mean()) for now, start in zip(weights(teacher), before, strict=True)]
    assert moved[0] == pytest.approx(0.1, rel=1e-5)
    assert not any(moved[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_start_from_takes_over_weights_and_buffers(form: type[FullTeacher], llama: Policy, dtype: torch.dtype) -> None:
    for policy in (llama, llama.model):
        policy.register_buffer("seen", torch.tensor([1.0]))
    teacher = form(llama)
    jump(llama, 0.5)
    llama.seen.fill_(3.0)
    llama.model.seen.fill_(4.0)
    llama.to(dtype)
    teacher.start_from(llama)
    assert same(weights(teacher), weights(llama))
    assert (teacher.policy.seen.item(), teacher.policy.model.seen.item()) == (3.0, 4.0)
    assert {buffer.dtype for buffer in teacher.buffers()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    now = weights(teacher)
    jump(llama, 0.5)  # and does not follow from then on
    assert same(weights(teacher), now)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drift(form: type[FullTeacher], llama: Policy, dtype: torch.dtype) -> None:
    llama.to(dtype)
    teacher = form(llama)
    assert teacher.drift(llama) == 0
    jump(llama, 0.1)
    ours = torch.cat([tensor.flatten() for tensor in weights(teacher)])
    theirs = torch.cat([tensor.flatten() for tensor in weights(llama)])
    assert teacher.drift(llama) == pytest.approx(((ours - theirs).norm() / theirs.norm()).item(), rel=1e-4)
    assert 0.03 < teacher.drift(llama) < 0.3
    teacher.start_from(llama)
    assert teacher.drift(llama) == 0


# A module of its own


def test_copy_is_equal_and_shares_nothing_but_the_tokenizer(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    assert teacher.policy.tokenizer is llama.tokenizer
    pointers = {parameter.data_ptr() for parameter in llama.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in teacher.parameters()}
    assert same(weights(teacher), weights(llama))
    llama.eval()
    tolerance = {"rtol": 0, "atol": 0.15} if form is CompensatedTeacher else {}  # hidden states are up to 3
    torch.testing.assert_close(teacher.hidden(SEQUENCES).float(), llama.hidden(SEQUENCES).detach(), **tolerance)


def dtypes(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors}


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.to("cpu", torch.float16),
        lambda module: module.double(),
    ],
)
def test_keeps_its_precision_when_its_parent_is_cast(
    form: type[FullTeacher], llama: Policy, cast: Callable[[nn.Module], nn.Module]
) -> None:
    parent = Parent(llama, form(llama))
    before, precisions = weights(parent.teacher), dtypes(parent.teacher.parameters())
    cast(parent)
    assert dtypes(parent.policy.parameters()) != {torch.float32}
    assert dtypes(parent.teacher.parameters()) == precisions
    assert dtypes(parent.teacher.policy.parameters()) <= {torch.float32, torch.bfloat16}
    assert dtypes(parent.teacher.buffers()) == {torch.float32}
    assert same(weights(parent.teacher), before)


def test_moves_between_devices(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    precisions = dtypes(teacher.parameters())
    Parent(llama, teacher).to(device="meta", dtype=torch.bfloat16)
    place = "cpu" if form is OffloadedTeacher else "meta"
    assert {parameter.device.type for parameter in teacher.parameters()} == {place}
    assert {buffer.device.type for buffer in teacher.buffers()} == {"meta"}
    assert dtypes(teacher.parameters()) == precisions


def test_is_frozen_and_in_eval_mode_whatever_its_parent_does(form: type[FullTeacher], gpt2: Policy) -> None:
    teacher = form(gpt2)
    assert not any(part.training for part in teacher.policy.modules())
    parent = Parent(gpt2, teacher)
    parent.train()
    assert not any(part.training for part in parent.teacher.modules())
    assert all(part.training for part in parent.policy.modules())
    trained = {id(parameter) for parameter in parent.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in gpt2.parameters()}
    assert torch.equal(parent.teacher.hidden(SEQUENCES), parent.teacher.hidden(SEQUENCES))


def test_no_gradient_flows_through_the_teacher(form: type[FullTeacher], llama: Policy) -> None:
    teacher = form(llama)
    hidden = teacher.hidden(SEQUENCES)
    assert not hidden.requires_grad
    assert not teacher.head(hidden).requires_grad


def test_weights_are_in_the_state_dict_of_the_parent(form: type[FullTeacher], llama: Policy) -> None:
    parent = Parent(llama, form(llama))
    jump(llama, 0.01)
    parent.teacher.update_(llama, 0.5)
    before, state = weights(parent.teacher), copy.deepcopy(parent.state_dict())
    assert len([name for name in state if name.startswith("teacher.policy.model.")]) == len(llama.state_dict())
    jump(llama, 0.01, seed=1)
    parent.teacher.update_(llama, 0.5)
    assert not any(torch.equal(one, other) for one, other in zip(weights(parent.teacher), before, strict=True))
    parent.load_state_dict(state)
    assert same(weights(parent.teacher), before)


# Memory


def test_bytes_of_a_parameter(form: type[FullTeacher], llama: Policy) -> None:
    count = sum(parameter.numel() for parameter in llama.parameters())
    teacher = form(llama)
    Parent(llama, teacher).to("meta")
    held = {"cpu": 0, "meta": 0}
    for parameter in teacher.parameters():
        held[parameter.device.type] += parameter.nbytes
    assert held == ({"cpu": 4 * count, "meta": 0} if form is OffloadedTeacher else {"cpu": 0, "meta": 4 * count})
    read = sum(parameter.nbytes for parameter in teacher.policy.parameters())
    assert read == (2 if form is CompensatedTeacher else 4) * count
