from __future__ import annotations

from datetime import datetime

import pytest

from lightning_sdft.progress import at_clock, seconds_text, size_text

NOON = datetime(2026, 12, 31, 12)


def test_the_hour_has_a_day_if_it_is_not_today() -> None:
    assert at_clock(11.9 * 3600, NOON) == "23:54"
    assert at_clock(12 * 3600, NOON) == "Fri 1 Jan 00:00"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.004, "0.00 s"), (0.5, "0.50 s"), (1.25, "1.2 s"), (9.96, "10.0 s"), (846.2, "846 s")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (12_800_000, "12.8 MB"), (2_150_000_000, "2.1 GB"), (366e9, "366 GB")]
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text
