"""Graders, which decide whether an answer is correct; one file per kind of answer."""

from lightning_sdft.grading.answer_tag import AnswerFormat, AnswerTag
from lightning_sdft.grading.base import Feedback, Grader
from lightning_sdft.grading.choice import Choice
from lightning_sdft.grading.contains import AnswerContained
from lightning_sdft.grading.exact_match import ExactMatch
from lightning_sdft.grading.json_fields import JsonFields
from lightning_sdft.grading.judge import Judge, JudgedAnswer, LocalJudge
from lightning_sdft.grading.judge_prompts import JudgePrompt
from lightning_sdft.grading.number import Number
from lightning_sdft.grading.pattern import Pattern
from lightning_sdft.grading.python_function import PythonFunction
from lightning_sdft.grading.sari import Sari
from lightning_sdft.grading.scored import Scored
from lightning_sdft.grading.similarity import Similarity
from lightning_sdft.grading.string_answer import StringAnswer
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse

__all__ = [
    "AnswerContained",
    "AnswerFormat",
    "AnswerTag",
    "Choice",
    "CorrectedToolUse",
    "ExactMatch",
    "Feedback",
    "Grader",
    "JsonFields",
    "Judge",
    "JudgePrompt",
    "JudgedAnswer",
    "LocalJudge",
    "Number",
    "Pattern",
    "PublishedToolUse",
    "PythonFunction",
    "Sari",
    "Scored",
    "Similarity",
    "StringAnswer",
]
