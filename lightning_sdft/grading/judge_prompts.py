"""The judges' prompts, word for word as in the paper, with its line breaks.

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897,
        appendix (medical: two labels, knowledge acquisition: three)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightning_sdft.errors import DataError

__all__ = ["KNOWLEDGE", "MEDICAL", "PROMPTS", "JudgePrompt"]

PLACEHOLDER = re.compile(r"\{(question|reference_answer|model_response)\}")

AROUND = " \t\r\n\"'`*.\u201c\u201d\u2018\u2019"
"""Characters that are stripped from a label: white space, quotes, emphasis, full stops."""


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt for a judge, and the labels that it may reply with.

    Args:
        text: The prompt, with the placeholders ``{question}``, ``{reference_answer}`` and ``{model_response}``; other
            braces are plain text.
        labels: The labels, best first.

    Raises:
        DataError: If the text lacks ``{model_response}``, or if there are no labels.

    Example:
        >>> prompt = JudgePrompt("Is {model_response} an answer to {question} Yes or no?", ("YES", "NO"))
        >>> prompt.fill("What is {}?", "a set", "{question}")
        'Is {question} an answer to What is {}? Yes or no?'
        >>> prompt.label(" **Yes**. ")
        'YES'
    """

    text: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if "{model_response}" not in self.text or not self.labels:
            raise DataError(
                "a judge prompt needs {model_response} in its text, and labels; this one has "
                f"labels={self.labels} and text={self.text!r}"
            )

    def fill(self, question: str, reference_answer: str, model_response: str) -> str:
        """The prompt about one response. Placeholders inside the inserted texts are not replaced."""
        values = {"question": question, "reference_answer": reference_answer, "model_response": model_response}
        return PLACEHOLDER.sub(lambda place: values[place[1]], self.text)

    def label(self, reply: str) -> str | None:
        """The label in a reply; ``None`` if the reply is anything but a single label.

        Case is ignored, and so are white space, quotes, backticks, asterisks and full stops around the label.
        """
        word = reply.strip(AROUND).upper()
        return next((label for label in self.labels if label.upper() == word), None)


MEDICAL = JudgePrompt(
    """\
You are an expert medical evaluator assessing whether a model's
response correctly answers a medical question. Your task is to
compare the model's response to the reference answer and determine
if the model's response is:
1. CORRECT: The response contains the key medical information from
the reference answer, even if phrased differently or includes
additional correct medical details.
2. INCORRECT: The response is medically wrong, misses the main
point, or provides incorrect medical information.
Focus on medical accuracy and completeness, not on writing style or
verbosity.
[Medical Question]
{question}
[Reference Answer]
{reference_answer}
[Model Response]
{model_response}
Evaluate the model's response. Output ONLY one of: "CORRECT" or
"INCORRECT".""",
    ("CORRECT", "INCORRECT"),
)

KNOWLEDGE = JudgePrompt(
    """\
You are an expert evaluator assessing whether a model's response
correctly answers a question.
Your task is to compare the model's response to the reference answer
and determine if the model's response is:
1. CORRECT: The response contains the key information from the
reference answer, even if phrased differently or includes additional
correct details.
2. PARTIALLY_CORRECT: The response contains most of the key
information from the reference answer but misses some details.
3. INCORRECT: The response is wrong, misses the main point, or
provides incorrect information.
Focus on factual accuracy and completeness, not on writing style or
verbosity.
[Question]
{question}
[Reference Answer]
{reference_answer}
[Model Response]
{model_response}
Evaluate the model's response. Output ONLY one of:
"CORRECT", "PARTIALLY_CORRECT", or "INCORRECT".""",
    ("CORRECT", "PARTIALLY_CORRECT", "INCORRECT"),
)

PROMPTS = {"medical": MEDICAL, "knowledge": KNOWLEDGE}
"""The prompts of the paper by domain."""
