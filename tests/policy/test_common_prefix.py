from __future__ import annotations

import pytest

from lightning_sdft.policy.common_prefix import common_length, common_prefix


@pytest.mark.parametrize(
    ("one", "other", "length"), [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([1], [2], 0), ([], [1], 0)]
)
def test_how_far_two_sequences_are_alike(one: list[int], other: list[int], length: int) -> None:
    assert common_length(one, other) == common_length(other, one) == length


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 5]], [1, 2]),  # the second would have nothing left behind [1, 2, 3]
        ([[1, 2, 3, 4], [1, 2, 3, 5]], [1, 2, 3]),
        ([[1], [1, 2]], []),
        ([[1, 2], [3, 2]], []),
        ([[1, 2, 3]], [1, 2]),
        ([[], [1]], []),
    ],
)
def test_what_all_prompts_begin_with_leaves_a_token_of_each(prompts: list[list[int]], shared: list[int]) -> None:
    assert common_prefix(prompts) == shared
