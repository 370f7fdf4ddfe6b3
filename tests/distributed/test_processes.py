"""What processes know of each other."""

from __future__ import annotations

import pytest
import torch
from torch.distributed import destroy_process_group, init_process_group

from lightning_sdft.distributed.processes import (
    any_process,
    of_each_process,
    process_count,
    process_index,
    sums_over_processes,
)
from tests.launch import in_processes


def check_two() -> None:
    init_process_group("gloo")
    index = process_index()
    assert process_count() == 2
    assert sums_over_processes([1.0, float(index)], torch.device("cpu")) == [2.0, 1.0]
    assert of_each_process({"rank": index}) == [{"rank": 0}, {"rank": 1}]
    assert any_process(index == 0)
    assert any_process(index == 1)
    assert not any_process(False)
    destroy_process_group()


def test_two_processes_know_what_only_one_has() -> None:
    in_processes(2, check_two)


@pytest.mark.parametrize("flag", [False, True])
def test_one_process_is_alone(flag: bool) -> None:
    assert (process_count(), process_index()) == (1, 0)
    assert any_process(flag) is flag
    assert of_each_process(flag) == [flag]
    assert sums_over_processes([1.0, 2.5], torch.device("cpu")) == [1.0, 2.5]
