"""Graders of answers in ``<answer>`` tags, which the system prompt of science questions asks for.

:class:`AnswerTag` grades like the scorer released with [1]. That scorer has flaws: the tag must contain the letter and
nothing else (``A.`` and ``a`` are wrong), yet a letter in a tag that is never closed is correct, and so is a single
letter without tags. Accuracy thus mixes knowing the answer with following the format. :class:`AnswerFormat` is reported
as well, to tell the two apart.

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from typing import Any

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import any_right, same

__all__ = ["LETTERS", "AnswerFormat", "AnswerTag", "final_answer"]

LETTERS = ("A", "B", "C", "D")
"""Labels of the options of a question."""

OPENING, CLOSING = "<answer>", "</answer>"


def final_answer(response: str) -> str:
    r"""The text after the last ``<answer>``, up to the next ``</answer>``, without white space around it.

    If the opening tag is missing, the text begins where the response does; likewise for the closing tag and the end.

    Example:
        >>> final_answer("It is B. <answer>\nB\n</answer>")
        'B'
        >>> final_answer("B")
        'B'
    """
    return response.rpartition(OPENING)[2].partition(CLOSING)[0].strip()


class AnswerTag(Grader):
    """Grades like the scorer released with the paper, including its flaws (see the module's description).

    The reference is the letter of the correct option, or a list of letters of which any is right.

    Example:
        >>> AnswerTag().grade("<reasoning>water</reasoning><answer>A</answer>", "A")
        True
    """

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the final answer is the letter."""
        return any_right(lambda each: same(final_answer(response), each), reference)


class AnswerFormat(Grader):
    """Whether a response has exactly one well-formed answer, correct or not; the mean is the format rate.

    A well-formed answer is one ``<answer>`` and one ``</answer>`` with only a letter from A to D and white space
    between them. Text around the tags does not matter.

    Example:
        >>> AnswerFormat().grade("<answer>A</answer>", "B"), AnswerFormat().grade("A", "A")
        (True, False)
    """

    needs_reference = False

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the response is well-formed, whatever the reference."""
        once = response.count(OPENING) == 1 and response.count(CLOSING) == 1
        return once and response.index(OPENING) < response.index(CLOSING) and final_answer(response) in LETTERS
