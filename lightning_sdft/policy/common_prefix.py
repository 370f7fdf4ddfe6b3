"""What sequences of tokens begin with alike."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_length", "common_prefix"]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens by which two sequences begin alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(one), len(other)))


def common_prefix(prompts: Sequence[list[int]] | Sequence[tuple[int, ...]]) -> list[int]:
    """The tokens that all prompts begin with; at least one of each is left, which predicts the first of an answer.

    Example:
        >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]]), common_prefix([[1, 2], [1, 2, 3]])
        ([1, 2], [1])
    """
    first, last = min(prompts), max(prompts)  # in sorted order, a prefix of first and last is in all
    return list(first[: max(min(common_length(first, last), min(map(len, prompts)) - 1), 0)])
