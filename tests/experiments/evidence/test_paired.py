"""Statistics against scipy's, against definitions, and against what must come out."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from lightning_sdft.experiments.evidence.paired import Pairs, holm, mcnemar, paired_bootstrap
from tests.experiments.evidence.recomputed import step_down


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (5, 0), (3, 9), (9, 3), (17, 17), (200, 100), (1200, 1150)])
def test_mcnemar_is_the_binomial_test_at_one_half(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost, 0.5).pvalue, rel=1e-9)


def test_without_a_question_that_only_one_has_right_nothing_is_shown() -> None:
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("p_values", [[], [0.2], [0.04, 0.01, 0.03], [0.5, 0.5, 0.9], [0.001, 0.001, 0.04, 0.2, 0.01]])
def test_holm_is_what_its_definition_says(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(step_down(p_values))


def test_questions_that_one_of_two_has_not_are_left_out() -> None:
    mine = {"a": True, "b": False, "c": True, "d": None, "e": True}
    theirs = {"a": False, "b": True, "c": True, "d": True, "f": False}
    assert Pairs.of(mine, theirs) == Pairs(3, 1, 1)


def test_bootstrap_is_wider_where_seeds_differ() -> None:
    same = paired_bootstrap([[Pairs(100, 20, 10)] * 4])
    differing = paired_bootstrap([[Pairs(100, 40, 0), Pairs(100, 0, 20), Pairs(100, 40, 0), Pairs(100, 0, 0)]])
    assert same[0] < 0.1 < same[1]
    assert differing[0] < 0.1 < differing[1]
    assert differing[1] - differing[0] > 2 * (same[1] - same[0])
    assert paired_bootstrap([[Pairs(100, 0, 0)] * 3]) == (0.0, 0.0)


def test_sets_of_questions_weigh_the_same_whatever_their_size() -> None:
    low, high = paired_bootstrap([[Pairs(1000, 1000, 0)] * 2, [Pairs(10, 0, 0)] * 2])
    assert (low, high) == (0.5, 0.5)
