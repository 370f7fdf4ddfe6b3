"""Fewer cases than all combinations, among which any two settings still meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations of a value of each axis, in which each value occurs with each value of every other axis.

    A fault that takes three settings at once may pass; one of a single setting, or of two that do not go together, does
    not.
    """
    combined = list(product(*(range(len(axis)) for axis in axes)))
    missing = {pair for row in combined for pair in combinations(enumerate(row), 2)}
    chosen = []
    while missing:
        best = max(combined, key=lambda row: len(missing.intersection(combinations(enumerate(row), 2))))
        missing.difference_update(combinations(enumerate(best), 2))
        chosen.append(tuple(axis[index] for axis, index in zip(axes, best, strict=True)))
    return chosen
