from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.policy import Policy
from lightning_sdft.teacher import CompensatedTeacher
from lightning_sdft.teacher import compensated as compensated_module
from lightning_sdft.teacher.compensated import join, split
from tests.teacher.conftest import SEQUENCES, jump, same, weights


def bits(weight: Tensor) -> Tensor:
    return weight.contiguous().view(torch.int32)


@pytest.fixture(scope="module")
def numbers() -> Tensor:
    """Float32 numbers of every sign and exponent, with lower halves of all sizes."""
    upper = torch.arange(-(2**15), 2**15, 127, dtype=torch.int32) << 16
    lower = torch.cat([torch.arange(0, 2**16, 251), 2**15 + torch.tensor([-1, 0, 1])])
    return (upper[:, None] + lower.int()).view(torch.float32)


def test_join_has_every_bit_of_what_was_split(numbers: Tensor) -> None:
    value, residual = split(numbers)
    assert (value.dtype, value.shape) == (torch.bfloat16, numbers.shape)
    assert (residual.dtype, residual.shape) == (torch.uint8, (*numbers.shape, 2))
    assert torch.equal(bits(join(value, residual)), bits(numbers))


def test_value_is_the_nearest(numbers: Tensor) -> None:
    finite = numbers[numbers.abs() < 3e38]
    value, _ = split(finite)
    tie = bits(finite) & 0xFFFF == 2**15  # as near to the one as to the other, and torch takes the even one
    assert torch.equal(value[~tie], finite.bfloat16()[~tie])
    torch.testing.assert_close(value[tie].float(), finite.bfloat16()[tie].float(), rtol=2**-7, atol=2**-133)
    assert 0 < tie.sum() < len(tie) / 100


@pytest.mark.parametrize("weight", [torch.tensor(1 / 3), torch.rand(3, 5).T, torch.rand(2, 1, 4), torch.empty(0)])
def test_any_shape(weight: Tensor) -> None:
    assert torch.equal(join(*split(weight)), weight)


def test_reads_as_a_bfloat16_model_does(policy: Policy) -> None:
    teacher = CompensatedTeacher(policy)
    narrow = nn.ModuleList([policy]).to(torch.bfloat16).eval()[0]
    hidden = teacher.hidden(SEQUENCES)
    assert hidden.dtype == torch.bfloat16
    assert torch.equal(hidden, narrow.hidden(SEQUENCES))
    assert torch.equal(teacher.head(hidden), narrow.head(hidden))


def test_what_is_below_a_bfloat16_step_is_kept_and_adds_up(llama: Policy) -> None:
    teacher = CompensatedTeacher(llama.bfloat16())
    read = [parameter.clone() for parameter in teacher.policy.parameters()]
    before = weights(teacher)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.mul_(1 + 2**-7)  # a step or two of bfloat16
    teacher.update_(llama, 0.01)
    assert all(torch.equal(ours, start) for ours, start in zip(teacher.policy.parameters(), read, strict=True))
    assert not any(torch.equal(now, start) for now, start in zip(weights(teacher), before, strict=True))
    for _ in range(200):
        teacher.update_(llama, 0.01)
    assert not any(torch.equal(ours, start) for ours, start in zip(teacher.policy.parameters(), read, strict=True))


def test_pieces_of_any_size_give_the_same(llama: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = CompensatedTeacher(llama), CompensatedTeacher(llama)
    jump(llama, 0.1)
    whole.update_(llama, 0.01)
    monkeypatch.setitem(compensated_module.PIECE, "cpu", 8)
    pieces.update_(llama, 0.01)
    assert same(weights(whole), weights(pieces))
    pieces.start_from(llama)
    assert same(weights(pieces), weights(llama))


def test_both_halves_are_in_the_state_dict_and_nothing_else_twice(family_folder: Any, tmp_path: Path) -> None:
    policy = Policy.load(str(family_folder("qwen2")))  # whose head is tied
    policy.model.register_buffer("seen", torch.tensor([1.0]))
    state = CompensatedTeacher(policy).state_dict()
    names = set(policy.state_dict())
    assert {name.removeprefix("policy.") for name in state if name.startswith("policy.")} == names
    halves = {name.removeprefix("residual.") for name in state if name.startswith("residual.")}
    assert halves == names - {"model.seen"}
    assert len({tensor.data_ptr() for tensor in state.values()}) == 2 * len(list(policy.parameters())) + 1
