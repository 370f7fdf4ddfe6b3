"""Grades answers by how much they have in common with the reference, in its order.

[1] Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, https://aclanthology.org/W04-1013
[2] Hyyrö, Bit-Parallel LCS-length Computation Revisited, 2004 (the longest common subsequence in words of bits)
[3] Lu et al., CodeXGLUE: A Machine Learning Benchmark Dataset for Code Understanding and Generation, 2021,
    https://arxiv.org/abs/2102.04664
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, Literal

from lightning_sdft.errors import DataError
from lightning_sdft.grading.references import alternatives, composed, text_of
from lightning_sdft.grading.scored import Scored
from lightning_sdft.settings import Share

__all__ = ["Similarity", "shared"]

WORD = re.compile(r"\w+")

LITERAL = re.compile(r"<(STR|NUM|CHAR)_LIT(?::(.*?))?>", re.DOTALL)
"""How rare literals of code are masked in CodeXGLUE [3]; a frequent one stands behind a colon."""


def shared(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """`2 L / (M + N)`: twice the longest common subsequence of two sequences, by their lengths; 0 if both are empty.

    Over words it is ROUGE-L [1] with equal weights of precision and recall. Over characters it is the edit similarity
    without substitutions, `1 - D / (M + N)`, which libraries for fuzzy matching call ratio.

    Example:
        >>> shared("kitten", "sitting"), shared("the cat sat".split(), "the cat".split())
        (0.6153846153846154, 0.8)
    """
    places: defaultdict[Hashable, int] = defaultdict(int)
    for index, each in enumerate(first):
        places[each] |= 1 << index
    everything = (1 << len(first)) - 1
    unmatched = everything  # [2]: a bit for each part of the first sequence, cleared where the subsequence grows
    for each in second:
        matched = unmatched & places[each]
        unmatched = ((unmatched + matched) | (unmatched - matched)) & everything
    total = len(first) + len(second)
    return 2 * (len(first) - unmatched.bit_count()) / total if total else 0.0


class Similarity(Scored):
    """Mean similarity of responses with their references, in [0, 1]: what they share, in its order (:func:`shared`).

    The reference is text, or what is written as such; of a list of alternatives the most similar one counts.

    Args:
        of: What is compared: ``words`` without case and punctuation, as for summaries (ROUGE-L), or ``code``, the
            characters of code, in which literals that are masked as in CodeXGLUE [3] stand for themselves, or for
            nothing, and ``<NUM_LIT>`` for 0.
        at_least: See :class:`~lightning_sdft.grading.scored.Scored`.

    Example:
        >>> Similarity().score("The motion passed, at last.", "Motion passed")
        0.5714285714285714
        >>> Similarity("code").score("x = <NUM_LIT:2>", "x = 2")
        1.0
    """

    def __init__(self, of: Literal["words", "code"] = "words", at_least: Share = 0.5) -> None:
        super().__init__(at_least)
        self.of = of

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference in which there is nothing to compare."""
        if not any(self._parts(text_of(each)) for each in alternatives(reference)):
            raise DataError(f"a reference with {self.of} is needed, not {reference!r}")

    def score(self, response: str, reference: Any) -> float | None:
        """The similarity with the most similar reference; ``None`` if there is none."""
        found = self._parts(composed(response))
        return max((shared(found, self._parts(text_of(each))) for each in alternatives(reference)), default=None)

    def _parts(self, text: str) -> Sequence[str]:
        return WORD.findall(text.casefold()) if self.of == "words" else LITERAL.sub(_literal, text).strip()


def _literal(mask: re.Match[str]) -> str:
    return mask[2] if mask[2] is not None else "0" * (mask[1] == "NUM")
