"""What was kept at a level of accuracy, between validations."""

from __future__ import annotations

import pytest

from lightning_sdft.experiments.evidence.matched import kept_at, matched
from lightning_sdft.experiments.evidence.result import Point, Result


def way(*points: tuple[float, float]) -> list[Point]:
    return [Point(new, {"prior": kept}) for new, kept in points]


@pytest.mark.parametrize(
    ("points", "level", "kept"),
    [
        ([(0.2, 1.0), (0.6, 0.8), (0.8, 0.4)], 0.4, 0.9),
        ([(0.2, 1.0), (0.6, 0.8), (0.8, 0.4)], 0.8, 0.4),
        ([(0.2, 1.0), (0.6, 0.8), (0.4, 0.4), (0.8, 0.0)], 0.5, 0.95 - 0.1),  # where it is first reached
        ([(0.9, 0.2), (0.7, 0.6)], 0.8, 0.4),  # of a run that gives up some of the new task
        ([(0.2, 1.0), (0.6, 0.8)], 0.7, None),
        ([(0.5, 0.7)], 0.5, 0.7),
        ([], 0.5, None),
    ],
)
def test_kept_at_a_level(points: list[tuple[float, float]], level: float, kept: float | None) -> None:
    found = kept_at(way(*points), level, "prior")
    assert found == (None if kept is None else pytest.approx(kept))


def test_seeds_are_matched_one_by_one_and_those_that_never_meet_are_left_out() -> None:
    def results(method: str, *ways: list[Point]) -> list[Result]:
        return [Result("double", method, seed, {}, way=each) for seed, each in enumerate(ways)]

    mine = results("SDFT", way((0.2, 1.0), (0.8, 0.9)), way((0.2, 1.0), (0.6, 1.0)), way((0.9, 1.0), (0.95, 1.0)))
    theirs = results("SFT", way((0.2, 1.0), (0.5, 0.5)), way((0.2, 1.0), (1.0, 0.2)), way((0.1, 0.5), (0.2, 0.5)))
    found = matched(mine, theirs, "prior")
    assert found is not None
    assert found.differences == pytest.approx([0.95 - 0.5, 1.0 - 0.6])
    assert found.level == pytest.approx((0.5 + 0.6) / 2)
    assert matched(mine, theirs, "copy") is None
