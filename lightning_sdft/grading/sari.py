"""Grades simplified texts by what they keep, add and leave out.

[1] Xu et al., Optimizing Statistical Machine Translation for Text Simplification, 2016,
    https://aclanthology.org/Q16-1029
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from lightning_sdft.errors import DataError
from lightning_sdft.grading.references import alternatives, composed, text_of
from lightning_sdft.grading.scored import Scored

__all__ = ["Sari", "sari"]

ORDERS = (1, 2, 3, 4)

SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])|(?<![0-9])([.,])|([.,])(?![0-9])|(?<=[0-9])(-)")
"""Signs that are words of their own, as in NIST's mteval-v13a: all of ASCII's but those within numbers and words."""

Grams = Counter[tuple[str, ...]]


def sari(source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SARI [1], in [0, 1]: the mean over n-grams up to four of F1 of kept, F1 of added, precision of deleted ones.

    Kept and deleted n-grams count as often as references have them. As in the corrected implementations in use, the
    recall of kept ones is by how often they occur, and a share of nothing is 1.

    Args:
        source: The words of the text to be simplified.
        output: Those of the simplified one.
        references: Those of each right one.

    Example:
        >>> words = "a b c d".split()
        >>> sari(words, words, [words]), sari(words, "a b".split(), ["a b".split()])
        (1.0, 1.0)
    """
    return mean(_order(order, source, output, references) for order in ORDERS)


def _order(order: int, source: Sequence[str], output: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    wanted = sum((_grams(each, order) for each in references), Grams())
    given, found = (_times(_grams(each, order), len(references)) for each in (source, output))

    kept, to_keep = given & found, given & wanted
    right = kept & to_keep
    keep = _f1(_shares(right, kept), _ratio(right.total(), to_keep.total()))

    deleted, to_delete = given - found, given - wanted
    delete = _shares(deleted & to_delete, deleted)

    added, to_add = found.keys() - given.keys(), wanted.keys() - given.keys()
    add = _f1(_ratio(len(added & to_add), len(added)), _ratio(len(added & to_add), len(to_add)))
    return mean([keep, delete, add])


def _grams(words: Sequence[str], order: int) -> Grams:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def _times(grams: Grams, number: int) -> Grams:
    return Counter({gram: count * number for gram, count in grams.items()})


def _shares(right: Grams, chosen: Grams) -> float:
    """The mean over chosen n-grams of how often they are right."""
    return _ratio(sum(right[gram] / count for gram, count in chosen.items()), len(chosen))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class Sari(Scored):
    """Mean SARI of simplified texts, in [0, 1]; words are in lower case, and signs are words.

    The reference is ``{"question": text, "answer": text}``, where the question is the text to be simplified; the answer
    may be a list of alternatives. :class:`JsonDataModule` takes the last user turn for the question, with its
    instruction, as TRACE does.

    Args:
        at_least: See :class:`~lightning_sdft.grading.scored.Scored`.
    """

    needs_question = True

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference without question or answer."""
        if not isinstance(reference, Mapping) or not {"question", "answer"} <= reference.keys():
            raise DataError(f'a reference like {{"question": text, "answer": text}} is needed, not {reference!r}')

    def score(self, response: str, reference: Any) -> float | None:
        """SARI of a response; ``None`` if there is no answer to compare it with."""
        self.check_reference(reference)
        answers = [_words(text_of(each)) for each in alternatives(reference["answer"])]
        return sari(_words(composed(reference["question"])), _words(composed(response)), answers) if answers else None


def _words(text: str) -> list[str]:
    return SYMBOL.sub(lambda found: f" {found[0]} ", text.lower()).split()
