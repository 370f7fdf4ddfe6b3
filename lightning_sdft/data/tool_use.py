"""Tool use: choose a tool from its documentation and write the call, after ToolAlpaca [2] as used in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Tang et al., *ToolAlpaca: Generalized Tool Learning for Language Models with 3000 Simulated Cases*, 2023,
        https://arxiv.org/abs/2306.05301
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.data.example import DataError, Example, Message
from lightning_sdft.data.row_module import RowDataModule
from lightning_sdft.data.tables import Row, take
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse, canonical_arguments

__all__ = ["ToolUseDataModule", "tool_use_prompt"]

log = logging.getLogger(__name__)

FRAME = (
    "Your task is to answer the user's question using available tools. \n"
    "You have access to the following tools:\n"
    "Name: {name}\n"
    "Description: {description}\n"
    "Documentation:\n"
    "{documentation}\n"
    "\n"
    "Use the following format:\n"
    "Thought: you should always think about what to do\n"
    "Action: the action to take, should be one of the tool names.\n"
    "Action Input: the input to the action, must be in JSON format. "
    "All of the action input must be realistic and from the user.\n"
    "\n"
    "Begin!\n"
    "Question: {instruction}"
)


def tool_use_prompt(name: str, description: str, documentation: str, instruction: str) -> str:
    """The prompt of the published data, for tools of one's own.

    Args:
        name: Name of the tool collection.
        description: What it is for.
        documentation: Its functions in words; one newline at the end is left out.
        instruction: What the user asks for.
    """
    return FRAME.format(
        name=name,
        description=description,
        documentation=documentation.removesuffix("\n"),
        instruction=instruction,
    )


class ToolUseDataModule(RowDataModule):
    """Tool calls with demonstrations, graded as published (``tool_use``) and without flaws (``tool_use_corrected``).

    All rows have the columns ``prompt`` (the whole user turn; :func:`tool_use_prompt` builds one) and ``golden_answer``
    (a list of ``{"Action": name, "Action_Input": JSON text}``), training rows also ``golden_response`` (a list of
    strings, the lines of the demonstration). Arguments: see :class:`RowDataModule`.
    """

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example:
        """The example of a row."""
        demonstration = None
        if trained:
            lines = take(row, "golden_response", list, where)
            if not lines or not all(isinstance(line, str) for line in lines):
                raise DataError(
                    f"{where}: column 'golden_response' must be a list of strings, not empty; correct the row"
                )
            demonstration = "\n".join(lines)
        reference = take(row, "golden_answer", list, where)
        for index, action in enumerate(reference, start=1):
            if not isinstance(action, dict):
                raise DataError(f"{where}: action {index} of 'golden_answer' is not an object; correct the row")
            for key in ("Action", "Action_Input"):
                take(action, key, str, f"{where}, action {index} of 'golden_answer'")
        prompt: list[Message] = [{"role": "user", "content": take(row, "prompt", str, where)}]
        return Example(name, prompt, demonstration, reference=reference)

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Examples with both graders, and a warning about rows that cannot be answered right."""
        broken = [
            example.id
            for example in examples
            if any(canonical_arguments(action["Action_Input"]) is None for action in example.reference)
        ]
        if broken:
            log.warning(
                "%d of %d %s rows, the first being %s, have an Action_Input that is no JSON object: tool_use_corrected "
                "counts every response to them as wrong",
                len(broken),
                len(examples),
                split,
                broken[0],
            )
        return EvaluationSet(examples, {"tool_use": PublishedToolUse(), "tool_use_corrected": CorrectedToolUse()})
