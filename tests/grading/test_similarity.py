"""Similarity by its definition, by a plain dynamic programme, and beside the usual library."""

from __future__ import annotations

import random

import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.grading import Similarity
from lightning_sdft.grading.similarity import shared


def longest(first: str, second: str) -> int:
    """The length of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_shared_is_twice_the_longest_common_subsequence_by_the_lengths() -> None:
    draw = random.Random(0)
    for _ in range(200):
        first, second = ("".join(draw.choices("abcd", k=draw.randrange(1, 90))) for _ in range(2))
        assert shared(first, second) == 2 * longest(first, second) / (len(first) + len(second))
    assert (shared("", ""), shared("a", ""), shared("", "a"), shared("ab", "ab")) == (0, 0, 0, 1)


def test_words_are_those_of_rouge() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    texts = [
        ("The Council adopted a minute order.", "The council has adopted the order, in a minute."),
        ("Recommendation to declare ordinance 21-0020.", "Ordinance No. 21-0020, read and adopted."),
        ("one two three", "four"),
    ]
    for reference, response in texts:
        expected = scorer.score(reference, response)["rougeL"].fmeasure
        assert Similarity().score(response, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("x = 2", 1.0),
        ("x = <NUM_LIT:2>", 1.0),
        ("x = <NUM_LIT>", 0.8),  # 2 * 4 / (5 + 5)
        ("", 0.0),
    ],
)
def test_masked_literals_of_code_stand_for_themselves(response: str, score: float) -> None:
    assert Similarity("code").score(response, "x = <NUM_LIT:2>") == pytest.approx(score)


def test_masks_without_a_literal() -> None:
    assert Similarity("code").score("f ( '' , 0 )", "f ( '<STR_LIT>' , <NUM_LIT> )") == 1


def test_the_most_similar_alternative_counts() -> None:
    assert Similarity().score("Élan vital", ["nothing", "E\u0301LAN VITAL!"]) == 1
    assert Similarity().score("a", []) is None


def test_a_reference_with_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DataError, match=r"a reference with words is needed, not '\.\.\.'"):
        Similarity().check_reference("...")
    Similarity("code").check_reference("...")
