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
    line = fitted(torch.tensor(gaps), torch.tensor(gains), torch.zeros(72))
    expected = stats.linregress(gaps, gains)
    assert (line.intercept, line.slope) == pytest.approx((expected.intercept, expected.slope), abs=1e-4)
    design = numpy.stack([numpy.ones(72), gaps], axis=1)
    residuals = gains - design @ [expected.intercept, expected.slope]
    for gap in (0.2, 0.7, 1.2):
        row = numpy.array([1, gap])
        variance = residuals @ residuals / 70 * (1 + row @ numpy.linalg.inv(design.T @ design) @ row)
        half = stats.t.ppf(0.975, 70) * variance**0.5
        found = line.at(gap, 0.0)
        assert found.gain == pytest.approx(expected.intercept + expected.slope * gap, abs=1e-3)
        assert (found.high - found.low) / 2 == pytest.approx(half, abs=1e-3)
        assert bool(found.outside) == (gap > 1)


def test_a_model_gains_at_most_what_it_cannot_do_and_loses_at_most_what_it_can() -> None:
    ahead, behind = LINE.at(1.0, 0.7), LINE.at(-0.3, 0.4)
    assert ahead.low < ahead.gain == ahead.high == pytest.approx(0.3)
    assert behind.gain == behind.low == -0.4 < behind.high


def test_a_run_that_is_not_like_those_of_the_line_is_named() -> None:
    assert LINE.at(0.7, 0.5).outside == ""
    assert LINE.at(0.7, 0.06).outside == "their accuracy before training was 0.31 to 0.77, and here it is 0.06"
    both = (
        "their gap was -0.38 to 1.00, and here it is -0.50, their accuracy before training was 0.31 to 0.77, and here"
    )
    assert LINE.at(-0.5, 0.9).outside == f"{both} it is 0.90"


def test_the_interval_is_for_as_many_runs_as_the_line_has() -> None:
    assert pytest.approx(stats.t.ppf(0.975, LINE.runs - 2), abs=1e-3) == QUANTILE
