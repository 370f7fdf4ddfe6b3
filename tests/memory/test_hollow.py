from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_sdft.losses import ForwardKL, distillation_loss
from lightning_sdft.memory.hollow import Hollow
from lightning_sdft.modules.timing import resident_memory
from lightning_sdft.policy import Policy
from lightning_sdft.records import TokenSequence
from lightning_sdft.teacher import CompensatedTeacher, FullTeacher
from tests.memory.conftest import allocated

SEQUENCES = [TokenSequence([3] * 20, [4] * 30), TokenSequence([3] * 10, [4] * 35)]
SEED = 5056
"""Bytes of the state of the random number generator, which each block keeps that is computed again."""

SCALARS = 80
"""Bytes of numbers in tensors that Python makes of them."""

SHOWN = [TokenSequence([3] * 25, each.completion) for each in SEQUENCES]


def load(folder: Path, attention: str | None, checkpointing: bool) -> Policy:
    policy = Policy.load(str(folder), pretrained=False, attention=attention)
    if checkpointing:
        policy.enable_gradient_checkpointing()
    return policy


def take_step(policy: Policy, teacher: FullTeacher, autocast: bool, measured: Callable[[], Any]) -> list[Any]:
    """What the parts of a step take."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with measured() as first:
            shown = teacher.hidden(SHOWN)
        with measured() as second:
            hidden = policy.hidden(SEQUENCES)
        weights = torch.ones(len(hidden))
        with measured() as third:
            loss = distillation_loss(hidden, policy.head, shown, teacher.head, weights, ForwardKL()).loss
        del shown, hidden
    with measured() as fourth:
        loss.backward()
    del loss
    return [first, second, third, fourth]


@pytest.mark.parametrize(
    ("attention", "checkpointing", "autocast", "workspace"),  # that kernels take while they run
    [
        (None, False, False, 10_000),
        (None, True, True, 60_000),
        ("eager", False, True, 60_000),
        ("eager", True, False, 0),
    ],
)
def test_a_step_takes_what_the_allocator_gives_for_a_real_one(
    family: str,
    family_folder: Callable[[str], Path],
    attention: str | None,
    checkpointing: bool,
    autocast: bool,
    workspace: int,
) -> None:
    folder = family_folder(family)
    policy = load(folder, attention, checkpointing)
    real = take_step(policy, FullTeacher(policy), autocast, allocated)
    with Hollow() as run:
        policy = load(folder, attention, checkpointing)
        hollow = take_step(policy, FullTeacher(policy), autocast, run.ledger.measured)
    for ours, theirs in zip(hollow, real, strict=True):
        assert ours.kept == pytest.approx(theirs.kept, abs=2 * SEED * checkpointing + SCALARS)
        assert ours.peak == pytest.approx(theirs.peak, abs=2 * SEED + workspace + 1000)


def test_autograd_keeps_what_it_keeps_of_a_real_model(family: str, family_folder: Callable[[str], Path]) -> None:
    policy = load(family_folder(family), None, False)
    saved: dict[int, int] = {}
    known = {each.untyped_storage().data_ptr() for each in (*policy.parameters(), *policy.buffers())}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        hidden = policy.hidden(SEQUENCES)
    saved[hidden.untyped_storage().data_ptr()] = hidden.nbytes
    with Hollow() as run:
        policy = load(family_folder(family), None, False)
        with run.ledger.measured() as usage:
            kept = policy.hidden(SEQUENCES)
    assert usage.kept == sum(saved.values())
    assert kept.shape == hidden.shape


def test_no_number_takes_memory(seven_billion: str) -> None:
    before = resident_memory()
    with Hollow() as run:
        policy = Policy.load(seven_billion, pretrained=False)
        policy.hidden(SEQUENCES).sum().backward()
    assert run.ledger.now > 2 * 7e9 * 4
    assert resident_memory() - before < 500


def test_no_bit_of_a_number_takes_memory(three_billion: str) -> None:
    """A compensated teacher computes with the bits of its weights."""
    before = resident_memory()
    with Hollow() as run:
        policy = Policy.load(three_billion, pretrained=False)
        teacher = CompensatedTeacher(policy)
        teacher.start_from(policy)
        with run.ledger.measured() as usage:
            assert {weight.dtype for weight in teacher.weights()} == {torch.float32}
    assert usage.kept == 0
    assert usage.peak >= 152064 * 3584 * 4
    assert resident_memory() - before < 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_of_the_type_that_is_the_default_at_the_time(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        with Hollow() as run:
            numbers = torch.zeros(50)
            assert numbers.dtype == dtype
            assert run.ledger.now == 50 * dtype.itemsize
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("family")
def test_weights_are_those_of_the_real_model(family: str, family_folder: Callable[[str], Path]) -> None:
    real = {
        name: (each.shape, each.dtype) for name, each in load(family_folder(family), None, False).named_parameters()
    }
    with Hollow() as run:
        policy = load(family_folder(family), None, False)
    assert {name: (each.shape, each.dtype) for name, each in policy.named_parameters()} == real
    assert run.ledger.now >= sum(each.nbytes for each in policy.parameters())


class TestNumbers:
    """What code is told that asks for numbers."""

    def test_floating_point_numbers_are_one(self) -> None:
        with Hollow():
            assert torch.zeros(3).sum().item() == 1.0
            assert float(torch.rand(2).mean()) == 1.0

    def test_integers_are_what_they_are(self) -> None:
        with Hollow():
            tokens = torch.tensor([[5, 0, 7], [0, 0, 2]])
            assert (tokens.cumsum(-1)[:, -1] + 1).tolist() == [13, 3]
            assert torch.rand(2, 3, 4)[tokens > 4].shape == (2, 4)
            assert torch.arange(4).nonzero().flatten().tolist() == [1, 2, 3]

    def test_integers_made_of_floating_point_numbers_are_zero(self) -> None:
        with Hollow():
            assert torch.rand(2, 3).argmax(-1).tolist() == [0, 0]
            assert not torch.rand(3).isnan().any()

    def test_all_is_well(self) -> None:
        with Hollow():
            assert torch.allclose(torch.rand(3), torch.rand(3))
            assert len(torch.rand(3).nonzero()) == 3


class TestStorage:
    """Who shares it with whom."""

    def test_views_share(self) -> None:
        with Hollow() as run:
            whole = torch.rand(4, 6)
            views = [whole[1:], whole.T, whole.view(-1), whole.reshape(2, 12), whole.expand(3, 4, 6), *whole.split(2)]
        assert run.ledger.now == 4 * 6 * 4
        assert {each.untyped_storage().data_ptr() for each in views} == {whole.untyped_storage().data_ptr()}

    def test_writing_makes_nothing(self) -> None:
        with Hollow() as run:
            weight, other = torch.rand(50), torch.rand(50)
            before = run.ledger.now
            result = weight.add_(other)
            torch.mul(weight, other, out=other)
            torch._foreach_lerp_([weight], [other], 0.5)
            weight[3:5] = 1.0
        assert result is weight
        assert run.ledger.now == before

    def test_modules_are_copied_and_cast(self) -> None:
        with Hollow() as run:
            layer = nn.Linear(10, 20)
            assert run.ledger.now == 4 * 220
            twin = copy.deepcopy(layer)
            assert run.ledger.now == 4 * 440
            twin.to(torch.bfloat16)
            assert run.ledger.now == 4 * 220 + 2 * 220
        assert twin.weight.dtype == torch.bfloat16

    def test_optimizer_states_are_those_of_a_real_optimizer(self) -> None:
        def states(dtype: torch.dtype, **arguments: Any) -> int:
            weight = nn.Parameter(torch.ones(30, 5, dtype=dtype))
            weight.grad = torch.ones_like(weight)
            optimizer = torch.optim.AdamW([weight], **arguments)
            optimizer.step()
            return sum(each.nbytes for each in optimizer.state[weight].values())

        for arguments in ({"fused": True}, {"foreach": True}, {"foreach": False}):
            for dtype in (torch.float32, torch.bfloat16):
                with Hollow():
                    hollow = states(dtype, **arguments)
                assert hollow == states(dtype, **arguments) == 2 * 150 * dtype.itemsize + 4


def test_weights_that_are_packed_in_bytes_take_no_memory_either() -> None:
    before = resident_memory()
    with Hollow() as run:
        packed = torch.empty(2**28).mul(9).round().to(torch.int8)
        assert run.ledger.now == 2**28
        assert packed.float().shape == packed.shape
        tokens = torch.tensor([3, 200], dtype=torch.uint8).long()
    assert resident_memory() - before < 64
    assert tokens.tolist() == [3, 200]
