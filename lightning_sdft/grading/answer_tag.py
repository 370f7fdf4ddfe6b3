"""Graders of answers within ``<answer>`` tags, as the system prompt of science questions asks for them.

:class:`AnswerTag` decides as the scorer released with [1] does. Its flaws: what stands in the tag must be the letter
and nothing else (``A.`` and ``a`` are wrong), but a letter in a tag that is never closed is right, and so is a bare
letter without tags. So accuracy mixes knowing the answer with keeping to the format; :class:`AnswerFormat`, reported
beside it, tells the two apart.

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
"""

from __future__ import annotations

from lightning_sdft.grading.base import Grader

__all__ = ["LETTERS", "AnswerFormat", "AnswerTag", "final_answer"]

LETTERS = ("A", "B", "C", "D")
"""Labels of the options of a question."""

OPENING, CLOSING = "<answer>", "</answer>"


def final_answer(response: str) -> str:
    r"""The text after the last ``<answer>``, up to the next ``</answer>``, without white space around it.

    Where a tag is missing, the text begins or ends with the response.

    Example:
        >>> final_answer("It is B. <answer>\nB\n</answer>")
        'B'
        >>> final_answer("B")
        'B'
    """
    return response.rpartition(OPENING)[2].partition(CLOSING)[0].strip()


class AnswerTag(Grader):
    """Decides as the scorer released with the paper does, flaws included (see the module's description).

    The reference is the letter of the right option.

    Example:
        >>> AnswerTag().grade("<reasoning>water</reasoning><answer>A</answer>", "A")
        True
    """

    def grade(self, response: str, reference: str) -> bool:
        """Whether the final answer is the letter."""
        return final_answer(response) == reference


class AnswerFormat(Grader):
    """Whether a response gives exactly one well-formed answer, right or wrong: the mean is the format rate.

    Well-formed is one ``<answer>`` and one ``</answer>`` with a letter from A to D between them, and nothing else but
    white space. Text around the tags does not matter.

    Example:
        >>> AnswerFormat().grade("<answer>A</answer>", "B"), AnswerFormat().grade("A", "A")
        (True, False)
    """

    def grade(self, response: str, reference: str) -> bool:
        """Whether the response is well-formed, whatever the reference."""
        once = response.count(OPENING) == 1 and response.count(CLOSING) == 1
        return once and response.index(OPENING) < response.index(CLOSING) and final_answer(response) in LETTERS
