from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_sdft.errors import PolicyError
from lightning_sdft.memory import Room, TrainerPlan, estimate, fitting, lengths_by_budgets, room
from lightning_sdft.memory.fitting import BUSY_TOKENS, SHARES
from lightning_sdft.modules import SFTModule
from lightning_sdft.modules.timing import resident_memory

PLAN = TrainerPlan(accelerator=True, evaluates=True)
PLENTY = Room(2**50, 2**50)


@pytest.fixture
def module(words_module: Callable[..., Any]) -> Any:
    return words_module(SFTModule, max_prompt_tokens=20, max_completion_tokens=30)


@pytest.fixture
def data(words_data: Callable[..., Any]) -> Any:
    """Without rows, so that the budgets count."""
    return words_data(train=[], batch_size=12, micro_batch_size=None, evaluation_batch_size=1)


def peak(module: Any, data: Any, size: int) -> int:
    data.micro_batch_size = size
    found = estimate(module, PLAN, lengths_by_budgets(module, data, 1, 1)).peak
    data.micro_batch_size = None
    return found


def test_with_room_for_all_a_step_is_one_micro_batch(module: Any, data: Any) -> None:
    found = fitting(module, data, PLAN, PLENTY)
    assert (found.micro_batch_size, found.peak) == (12, peak(module, data, 12))
    assert data.micro_batch_size is None


@pytest.mark.parametrize("size", [6, 4, 3])
def test_otherwise_it_is_the_largest_divisor_that_fits_whatever_is_free(module: Any, data: Any, size: int) -> None:
    total = round(peak(module, data, size) / SHARES[PLAN.accelerator]) + 1
    assert fitting(module, data, PLAN, Room(1, total)).micro_batch_size == size


def test_the_smallest_may_take_all_that_there_is(module: Any, data: Any) -> None:
    least = peak(module, data, 1)
    assert fitting(module, data, PLAN, Room(1, least)).micro_batch_size == 1


def test_more_than_keeps_the_device_busy_is_not_taken(module: Any, data: Any) -> None:
    data.batch_size = 240
    assert 120 * 50 < BUSY_TOKENS < 240 * 50
    assert fitting(module, data, PLAN, PLENTY).micro_batch_size == 120


def test_one_that_is_set_stays(module: Any, data: Any) -> None:
    data.micro_batch_size = 6
    assert fitting(module, data, PLAN, Room(1, 2**50)).micro_batch_size == 6
    assert data.micro_batch_size == 6


def test_a_run_that_cannot_fit_is_refused_with_what_would(module: Any, data: Any) -> None:
    data.micro_batch_size = 12
    now = fitting(module, data, PLAN, PLENTY).peak
    with pytest.raises(PolicyError, match=r"would take .* GiB at the peak .*; take .*data\.micro_batch_size=1 \("):
        fitting(module, data, PLAN, Room(now, now - 1))
    with pytest.raises(PolicyError, match=r"try a smaller model, or .* together with "):
        fitting(module, data, PLAN, Room(1, 1))


def test_room_on_a_cpu_is_shared_and_has_what_this_process_holds() -> None:
    alone, four = room(False, 1), room(False, 4)
    assert resident_memory() * 2**20 < alone.free <= alone.total
    assert four.total == alone.total // 4
    assert four.free == four.total
