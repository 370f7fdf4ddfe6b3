from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from lightning_sdft.records import GREEDY, Rollout, Sampling, TokenSequence


@pytest.mark.parametrize("arguments", [{}, {"temperature": 0.0}, {"top_p": 1e-9}, {"top_k": 1}, {"min_p": 0.999}])
def test_ends_of_the_ranges_are_allowed(arguments: dict[str, Any]) -> None:
    Sampling(**arguments)


def test_default_is_the_distribution_itself() -> None:
    assert Sampling() == Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
    assert GREEDY.temperature == 0


def test_sampling_survives_a_checkpoint_without_pickle(tmp_path: Any) -> None:
    torch.save({"sampling": Sampling(0.7)}, tmp_path / "checkpoint")
    assert torch.load(tmp_path / "checkpoint", weights_only=True)["sampling"] == Sampling(0.7)


def test_rollout_is_a_frozen_sequence() -> None:
    rollout = Rollout([1], [2], [-0.5], finished=True)
    assert isinstance(rollout, TokenSequence)
    with pytest.raises(FrozenInstanceError):
        rollout.finished = False  # type: ignore[misc]
