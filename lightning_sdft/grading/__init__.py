"""What counts as a correct answer, one file per kind of answer."""

from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse

__all__ = ["CorrectedToolUse", "ExactMatch", "Grader", "PublishedToolUse", "StringAnswer"]
