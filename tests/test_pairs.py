from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.pairs import pairwise


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2, 4), (5, 5, 2, 5), (1, 3)])
def test_any_two_settings_meet_in_few_cases(sizes: tuple[int, ...]) -> None:
    axes = [range(size) for size in sizes]
    cases = pairwise(*axes)
    for one, other in combinations(range(len(axes)), 2):
        assert {(case[one], case[other]) for case in cases} == set(product(axes[one], axes[other]))
    first, second, *_ = sorted(sizes, reverse=True)
    assert first * second <= len(cases) <= first * second + 2
