from __future__ import annotations

import dataclasses

import pytest

from lightning_sdft.errors import DataError
from lightning_sdft.grading.judge_prompts import KNOWLEDGE, MEDICAL, PROMPTS, JudgePrompt

MEDICAL_LINES = [
    "You are an expert medical evaluator assessing whether a model's",
    "response correctly answers a medical question. Your task is to",
    "compare the model's response to the reference answer and determine",
    "if the model's response is:",
    "1. CORRECT: The response contains the key medical information from",
    "the reference answer, even if phrased differently or includes",
    "additional correct medical details.",
    "2. INCORRECT: The response is medically wrong, misses the main",
    "point, or provides incorrect medical information.",
    "Focus on medical accuracy and completeness, not on writing style or",
    "verbosity.",
    "[Medical Question]",
    "What is {}?",
    "[Reference Answer]",
    "{model_response} ü",
    "[Model Response]",
    "a {question}",
    "",
    'Evaluate the model\'s response. Output ONLY one of: "CORRECT" or',
    '"INCORRECT".',
]

KNOWLEDGE_LINES = [
    "You are an expert evaluator assessing whether a model's response",
    "correctly answers a question.",
    "Your task is to compare the model's response to the reference answer",
    "and determine if the model's response is:",
    "1. CORRECT: The response contains the key information from the",
    "reference answer, even if phrased differently or includes additional",
    "correct details.",
    "2. PARTIALLY_CORRECT: The response contains most of the key",
    "information from the reference answer but misses some details.",
    "3. INCORRECT: The response is wrong, misses the main point, or",
    "provides incorrect information.",
    "Focus on factual accuracy and completeness, not on writing style or",
    "verbosity.",
    "[Question]",
    "What is {}?",
    "[Reference Answer]",
    "{model_response} ü",
    "[Model Response]",
    "a {question}",
    "",
    "Evaluate the model's response. Output ONLY one of:",
    '"CORRECT", "PARTIALLY_CORRECT", or "INCORRECT".',
]


@pytest.mark.parametrize(("prompt", "expected"), [(MEDICAL, MEDICAL_LINES), (KNOWLEDGE, KNOWLEDGE_LINES)])
def test_prompts_are_the_papers_byte_for_byte(prompt: JudgePrompt, expected: list[str]) -> None:
    assert prompt.fill("What is {}?", "{model_response} ü", "a {question}\n") == "\n".join(expected)


def test_labels() -> None:
    assert PROMPTS == {"medical": MEDICAL, "knowledge": KNOWLEDGE}
    assert MEDICAL.labels == ("CORRECT", "INCORRECT")
    assert KNOWLEDGE.labels == ("CORRECT", "PARTIALLY_CORRECT", "INCORRECT")


@pytest.mark.parametrize("label", KNOWLEDGE.labels)
@pytest.mark.parametrize(
    "dress", ["{}", '"{}"', "'{}'", "`{}`", "```\n{}\n```", "**{}**", "{}.", '"{}."', ' \n"{}".\r\n', "\u201c{}\u201d"]
)
def test_label_in_any_dress(label: str, dress: str) -> None:
    for prompt in (MEDICAL, KNOWLEDGE):
        for written in (label, label.lower(), label.capitalize()):
            assert prompt.label(dress.format(written)) == (label if label in prompt.labels else None)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  ",
        '""',
        "...",
        "I think so.",
        "CORRECT or INCORRECT",
        "CORRECT, INCORRECT",
        "CORRECT\nINCORRECT",
        "CORRECT CORRECT",
        "NOT CORRECT",
        "The answer is CORRECT",
        "CORRECT: it has the key information",
        "1. CORRECT",
        "INCORRECTLY",
        "PARTIALLY",
        "PARTIALLY CORRECT",
        "PARTIALLY_ CORRECT",
        "IN CORRECT",
        "CORRECT_",
        '"CORRECT" "INCORRECT"',
        "CORRECT?",
        "CORRECT " * 130_000,
        '"' * 1_000_000,
        "C" * 1_000_000,
        "{}",
        "null",
        "\ud83d",
    ],
    ids=lambda reply: reply[:20].encode("ascii", "backslashreplace").decode(),
)
def test_anything_else_is_no_verdict(reply: str) -> None:
    assert MEDICAL.label(reply) is None
    assert KNOWLEDGE.label(reply) is None


def test_prompt_without_a_place_for_the_response_or_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match=r"needs \{model_response\} in its text"):
        JudgePrompt("Is {question} answered?", ("YES", "NO"))
    with pytest.raises(DataError, match="labels"):
        dataclasses.replace(MEDICAL, labels=())


def test_labels_of_ones_own_keep_their_case() -> None:
    prompt = JudgePrompt("{model_response}?", ("Yes", "no"))
    assert [prompt.label(reply) for reply in ("YES.", '"yes"', "No", "yes no")] == ["Yes", "Yes", "no", None]
