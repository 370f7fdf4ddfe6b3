from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_sdft.policy import Policy
from lightning_sdft.teacher import CompensatedTeacher, FullTeacher, ema_update_
from lightning_sdft.teacher import compensated as compensated_module
from tests.teacher.conftest import SEQUENCES, jump


def test_update_by_hand() -> None:
    # 0.25 * 4 + 0.75 * 8 = 7; with the rate the wrong way round it would be 5
    teacher = torch.tensor([8.0])
    ema_update_([teacher], [torch.tensor([4.0])], 0.25)
    assert teacher.tolist() == [7.0]


def test_update_is_in_the_precision_of_the_teacher() -> None:
    teacher = torch.tensor([1.0], dtype=torch.float64)
    ema_update_([teacher], [torch.tensor([2.0], dtype=torch.bfloat16)], 2**-40)
    assert teacher.tolist() == [1 + 2**-40]


def test_update_of_other_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        ema_update_([torch.zeros(1)], [], 0.5)


def test_copy_is_float32_whatever_the_student_is(llama: Policy) -> None:
    teacher = FullTeacher(llama.bfloat16())
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in llama.parameters()} == {torch.bfloat16}
    assert teacher.hidden(SEQUENCES).dtype == torch.float32


def test_a_gradient_is_not_copied(llama: Policy) -> None:
    llama.hidden(SEQUENCES).sum().backward()
    assert all(parameter.grad is None for parameter in FullTeacher(llama).parameters())


class Peak(TorchDispatchMode):
    """Most bytes of tensors that were alive at the same time, apart from those that were there before."""

    def __init__(self, *there: Any) -> None:
        super().__init__()
        self.there = {tensor.data_ptr() for module in there for tensor in module.parameters()}
        self.alive: list[weakref.ref[Tensor]] = []
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else (result,)
        self.alive += [weakref.ref(each) for each in made if isinstance(each, Tensor)]
        storages = [tensor.untyped_storage() for each in self.alive if (tensor := each()) is not None]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self.bytes = max(self.bytes, sum(size for place, size in sizes.items() if place not in self.there))
        return result


@pytest.mark.parametrize("form", [FullTeacher, CompensatedTeacher])
def test_an_update_makes_room_for_no_more_than_one_weight(
    form: type[FullTeacher], llama: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compensated_module.PIECE, "cpu", 64)
    llama.bfloat16()
    teacher = form(llama)
    jump(llama, 0.1)
    with Peak(llama, teacher) as peak:
        teacher.update_(llama, 0.1)
    largest = max(parameter.numel() for parameter in llama.parameters())
    # A piece in float32 of both, its bits, and what they are made into: a few tensors of 64 weights.
    limit = 4 * largest if form is FullTeacher else 64 * 32
    assert 0 < peak.bytes <= limit
