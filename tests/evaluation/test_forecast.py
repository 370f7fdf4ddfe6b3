from __future__ import annotations

import numpy
import pytest
import torch
from scipy import stats

from lightning_sdft.evaluation.forecast import LINE, QUANTILE
from tests.forecast.study import fitted


def test_line_and_interval_are_those_of_least_squares() -> None:
    generator = numpy.random.default_rng(0)
    gaps = generator.uniform(0.1, 0.9, 72)
    gains = 0.1 + 0.6 * gaps + 0.05 * generator.standard_normal(72)
    line = fitted(torch.tensor(gaps), torch.tensor(gains))
    expected = stats.linregress(gaps, gains)
    assert (line.intercept, line.slope) == pytest.approx((expected.intercept, expected.slope), abs=1e-4)
    design = numpy.stack([numpy.ones(72), gaps], axis=1)
    residuals = gains - design @ [expected.intercept, expected.slope]
    for gap in (0.2, 0.7, 1.4):
        row = numpy.array([1, gap])
        variance = residuals @ residuals / 70 * (1 + row @ numpy.linalg.inv(design.T @ design) @ row)
        half = stats.t.ppf(0.975, 70) * variance**0.5
        found = line.at(gap)
        assert found.gain == pytest.approx(expected.intercept + expected.slope * gap, abs=1e-3)
        assert (found.high - found.low) / 2 == pytest.approx(half, abs=1e-3)
        assert found.outside == (gap > 1)


def test_the_interval_is_for_as_many_runs_as_the_line_has() -> None:
    assert pytest.approx(stats.t.ppf(0.975, LINE.runs - 2), abs=1e-3) == QUANTILE
