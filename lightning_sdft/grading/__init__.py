"""Graders, which decide whether an answer is correct; one file per kind of answer."""

from lightning_sdft.grading.answer_tag import AnswerFormat, AnswerTag
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.contains import AnswerContained
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.grading.judge import Judge, JudgedAnswer, LocalJudge
from lightning_sdft.grading.judge_prompts import JudgePrompt
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse

__all__ = [
    "AnswerContained",
    "AnswerFormat",
    "AnswerTag",
    "CorrectedToolUse",
    "ExactMatch",
    "Grader",
    "Judge",
    "JudgePrompt",
    "JudgedAnswer",
    "LocalJudge",
    "PublishedToolUse",
    "StringAnswer",
]
