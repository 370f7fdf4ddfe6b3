"""Which examples are replayed, and how many."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.data import Replay, StringSkillsDataModule
from lightning_sdft.errors import DataError, SettingError

SIZES: dict[str, Any] = {"validation_size": 4, "test_size": 4, "prior_size": 4}


def prior(count: int = 40) -> StringSkillsDataModule:
    return StringSkillsDataModule(train_on="prior", train_size=count, **SIZES)


def trained_on(replay: Replay | None) -> list[str]:
    data = StringSkillsDataModule(train_size=60, replay=replay, **SIZES)
    return [example.id for example in data.splits.train]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 7), (0.25, 20), (0.4, 40)])
def test_share_is_of_all_that_is_trained_on(share: float, count: int) -> None:
    own, mixed = trained_on(None), trained_on(Replay(prior(), share))
    assert mixed[:60] == own
    replayed = mixed[60:]
    assert len(replayed) == len(set(replayed)) == count
    assert count / len(mixed) == pytest.approx(share, abs=0.01)
    there = {f"replay/{example.id}" for example in prior().splits.train}
    assert set(replayed) <= there


def test_draw_depends_on_the_seed_alone() -> None:
    one, again, other = (trained_on(Replay(prior(), 0.1, seed)) for seed in (0, 0, 1))
    assert one == again
    assert set(one) != set(other)


def test_evaluation_is_as_without_it() -> None:
    with_it = StringSkillsDataModule(replay=Replay(prior()), train_size=60, **SIZES).splits
    without = StringSkillsDataModule(train_size=60, **SIZES).splits
    for one, other in zip((*with_it.validation, *with_it.test), (*without.validation, *without.test), strict=True):
        assert one.examples == other.examples


def test_too_few_to_replay_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.replay\.data has 10 training .* share=0\.25 .* is 20 beside 60; give"):
        trained_on(Replay(prior(10), 0.25))
    with pytest.raises(SettingError, match="share"):
        Replay(prior(), 1.0)
