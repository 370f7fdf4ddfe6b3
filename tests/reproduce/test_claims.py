"""The claims can fail: each on results made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reproduce.claims import Claim, best, figure_3, figure_8, table_5

NEW = {"base": 0.3, "SFT": 0.9, "SFT + re-invoke": 0.6, "DFT": 0.5, "SDFT": 0.95}
PRIOR = {"base": 1.0, "SFT": 0.5, "SFT + re-invoke": 0.8, "DFT": 0.9, "SDFT": 0.92}


def row(method: str, new: float, prior: float, seed: int = 0, rate: float | None = 1e-4, **more: Any) -> dict[str, Any]:
    accuracies = {"new_task_accuracy": new, "prior_average": prior, "validation_accuracy": new, "error": None}
    return {"domain": "double", "method": method, "seed": seed, "learning_rate": rate, **accuracies, **more}


def rows(new: dict[str, float] | None = None, prior: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Two seeds around given means."""
    news, priors = {**NEW, **(new or {})}, {**PRIOR, **(prior or {})}
    return [
        row(method, news[method] + shift, priors[method] + shift, seed)
        for method in NEW
        for seed, shift in ((0, -0.02), (1, 0.02))
    ]


def failing(claims: list[Claim]) -> list[str]:
    return [claim.sentence for claim in claims if not claim.holds]


def test_all_hold_for_results_like_the_papers() -> None:
    claims = table_5(rows())
    assert len(claims) == 7
    assert failing(claims) == []


@pytest.mark.parametrize(
    ("new", "prior", "sentence"),
    [
        ({"SDFT": 0.89}, {}, "at least as much"),
        ({"DFT": 0.96}, {}, "more than DFT"),
        ({}, {"SDFT": 0.45}, "forgets less"),
        ({}, {"SDFT": 0.89}, "a fifth"),
        ({"DFT": 0.29}, {}, "DFT learns"),
        ({"DFT": 0.91}, {}, "DFT learns"),
        ({}, {"SFT + re-invoke": 0.74}, "at least half"),
        ({"SFT + re-invoke": 0.3}, {}, "stays above"),
    ],
)
def test_each_fails_where_it_should(new: dict[str, float], prior: dict[str, float], sentence: str) -> None:
    assert any(sentence in each for each in failing(table_5(rows(new, prior))))


def test_a_method_is_judged_at_the_rate_that_validates_best_and_at_the_lower_of_equals() -> None:
    found = [row("SFT", 0.1, 0.9, rate=3e-4, validation_accuracy=0.8), row("SFT", 0.9, 0.9, rate=1e-4)]
    found[1]["validation_accuracy"] = 0.8
    assert best(found, "double", "SFT") == [found[1]]
    found[0]["validation_accuracy"] = 0.81
    assert best(found, "double", "SFT") == [found[0]]


def test_rates_are_compared_on_the_seeds_that_each_of_them_has() -> None:
    found = [row("SFT", 0.8, 0.9, rate=3e-4), row("SFT", 0.9, 0.9, rate=1e-4), row("SFT", 0.5, 0.9, 1, rate=1e-4)]
    assert best(found, "double", "SFT") == found[1:]


def test_a_run_that_failed_is_no_result() -> None:
    with pytest.raises(AssertionError, match="killed"):
        table_5([*rows(), row("SFT", 0, 0, seed=3, error="killed")])


@pytest.mark.parametrize(("skills", "prior", "holds"), [(0.9, 0.9, True), (0.84, 0.9, False), (0.9, 0.84, False)])
def test_sequences_are_judged_at_their_end(skills: float, prior: float, holds: bool) -> None:
    def stage(method: str, number: int, value: float, kept: float, rate: float = 1e-4) -> dict[str, Any]:
        return {
            "method": method,
            "seed": 0,
            "stage": number,
            "accuracies": {"a": value - 0.05, "b": value + 0.05},
            "prior_average": kept,
            "validation_accuracy": value,
            "learning_rate": rate,
            "error": None,
        }

    ends = [stage("SDFT", 1, 0, 0), stage("SDFT", 2, skills, prior), stage("SDFT", 2, 0.1, 0.99, rate=3e-4)]
    (claim,) = figure_3([*ends, stage("SFT", 2, 0.3, 0.1)])
    assert claim.measured == f"{skills:.3f}, {prior:.3f}; SFT 0.300, 0.100"
    assert claim.holds is holds


def test_teachers_are_compared() -> None:
    found = [row("EMA teacher", 0.9, 1), row("frozen teacher", 0.8, 1), row("live teacher", 0.7, 1)]
    assert failing(figure_8(found)) == []
    assert failing(figure_8([*found[:2], row("live teacher", 0.9, 1)]))
