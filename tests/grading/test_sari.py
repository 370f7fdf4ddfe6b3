"""SARI by hand, by its published example, and its words beside those of the usual library."""

from __future__ import annotations

import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.grading import Sari
from lightning_sdft.grading.sari import _words, sari


def test_the_published_example() -> None:
    """The example that the authors' code and its successors give, with the corrected recall of what is kept."""
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    reference = {"question": "About 95 species are currently accepted .", "answer": references}
    assert Sari().score("About 95 you now get in .", reference) == pytest.approx(0.26953601953601954, abs=1e-12)


def test_by_hand() -> None:
    found = sari([*"abcd"], [*"abe"], [[*"abc"]])
    # The mean of F1 of kept, F1 of added and precision of deleted n-grams; recall of no n-gram that is wanted is 1.
    one = (2 * 1 * (2 / 3) / (1 + 2 / 3) + 1 / 2 + 0) / 3  # kept a, b of a, b, c; deleted c, d, of which d is right
    two = (2 * 1 * (1 / 2) / (1 + 1 / 2) + 1 / 2 + 0) / 3  # kept "a b" of "a b", "b c"; deleted "b c", "c d"
    three = (0 + 1 / 2 + 0) / 3  # kept nothing: precision 1, recall 0; deleted "a b c", "b c d"
    four = (1 + 1 + 1) / 3  # nothing to keep, nothing to add; "a b c d" is deleted
    assert found == pytest.approx((one + two + three + four) / 4, abs=1e-12)


def test_a_copy_of_what_needs_no_change_is_right_and_a_copy_of_what_does_is_not() -> None:
    grader = Sari()
    assert (
        grader.score(
            "Alles war hier sehr gut.", {"question": "Alles war hier sehr gut.", "answer": "alles war hier sehr gut ."}
        )
        == 1
    )
    unchanged = grader.score("Alles war hier sehr gut.", {"question": "Alles war hier sehr gut.", "answer": "Es geht."})
    assert unchanged is not None
    assert unchanged < 0.5
    assert grader.score("a", {"question": "a", "answer": []}) is None


def test_signs_are_words_as_in_mteval_13a() -> None:
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    for text in ['a well-known, e.g. 3.5 and 1,200-mark ("it\'s") 2-3 $5.00 a/b; x_y. 3.', "x.5 ,5 5. 5, a.,b ... ä."]:
        assert _words(text) == tokenizer(text).split()


def test_a_reference_without_question_is_refused() -> None:
    with pytest.raises(DataError, match=r"a reference like {.question.: text, .answer.: text} is needed"):
        Sari().check_reference("a")
