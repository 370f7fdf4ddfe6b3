from __future__ import annotations

import pytest

from lightning_sdft.progress import Pace, pace


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_a_line_at_the_first_step_then_every_twentieth_and_at_the_end(clock: Clock) -> None:
    each, said = Pace(), []
    for step in range(1, 193):
        clock.now += 2
        if each.due(step / 192):
            said.append(step)
    assert said[:4] == [1, 10, 20, 29]
    assert said[-1] == 192
    assert len(said) == 21


def test_long_work_has_a_line_every_ten_minutes(clock: Clock) -> None:
    each, said = Pace(), []
    for step in range(1, 31):
        clock.now += 100
        if each.due(step / 100_000):
            said.append(step)
    assert said == [1, 7, 13, 19, 25]


def test_short_work_has_no_more_than_a_line_a_second_but_its_end(clock: Clock) -> None:
    each, said = Pace(), []
    for step in range(1, 101):
        clock.now += 0.02
        if each.due(step / 100):
            said.append(step)
    assert (said[0], said[-1], len(said)) == (1, 100, 3)


def test_usually_short_work_has_no_line_until_it_is_long(clock: Clock) -> None:
    each = Pace(quiet=30)
    assert not each.due(0.1)
    clock.now += 31
    assert each.due(0.2)
    assert not Pace(quiet=30).due(1.0)
