"""Intervals of means over seeds, against SciPy's distribution of Student."""

from __future__ import annotations

from random import Random

import pytest

from lightning_sdft.experiments.report.intervals import Mean


@pytest.mark.parametrize("count", range(2, 31))
def test_half_width_is_that_of_students_distribution(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    numpy = pytest.importorskip("numpy")
    values = [Random(count + index).random() for index in range(count)]
    mean = Mean.of(values)
    deviation = numpy.std(values, ddof=1) / count**0.5
    assert mean.value == pytest.approx(numpy.mean(values))
    assert mean.half_width == pytest.approx(stats.t.ppf(0.975, count - 1) * deviation, rel=1.5e-3)


def test_one_value_has_no_interval() -> None:
    assert Mean.of([0.25]) == Mean(0.25, None)
    assert Mean.of([0.25]).percent() == "25.0"


def test_equal_values_have_none_to_speak_of() -> None:
    assert Mean.of([0.5, 0.5]).percent() == "50.0 ± 0.0"
