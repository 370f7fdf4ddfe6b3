"""Tool use: choose a tool by its documentation and write the call, after ToolAlpaca [2] as used in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Tang et al., *ToolAlpaca: Generalized Tool Learning for Language Models with 3000 Simulated Cases*, 2023,
        https://arxiv.org/abs/2306.05301
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from lightning_sdft.data.row_module import Part, RowDataModule
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.data.tables import Row, take
from lightning_sdft.data.tool_alpaca import divide_entry, is_tool_alpaca, prepare_entry
from lightning_sdft.errors import DataError
from lightning_sdft.grading.tool_use import CorrectedToolUse, PublishedToolUse, canonical_arguments
from lightning_sdft.records import Example, Message

__all__ = ["ToolUseDataModule", "tool_use_prompt"]

CALL = ("Action", "Action_Input")
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
    """Write a prompt in the format of the published data, for your own tools.

    Args:
        name: Name of the collection of tools.
        description: What the collection is for.
        documentation: Description of its functions; one newline at the end is removed.
        instruction: What the user asks for.
    """
    return FRAME.format(
        name=name,
        description=description,
        documentation=documentation.removesuffix("\n"),
        instruction=instruction,
    )


class ToolUseDataModule(RowDataModule):
    """Tool calls, graded as published (``tool_use``) and without that grader's flaws (``tool_use_corrected``).

    Each source may hold rows in either of these formats, which are recognized by their columns:

    * As prepared for [1]: ``prompt`` (the whole user turn; :func:`tool_use_prompt` builds one) and ``golden_answer`` (a
      list of ``{"Action": name, "Action_Input": JSON text}``); training rows also have ``golden_response`` (a list of
      strings, the lines of the demonstration).
    * As published by ToolAlpaca [2], ``train_data.json``, ``eval_simulated.json`` and ``eval_real.json``: one entry per
      collection of tools, with many questions. The prompt is built as for [1]; if the tools need API keys, the
      question ends with the values in ``Authentication``, as in [2]. Only ``train_data.json`` has demonstrations.

    A row is bad if the input of an expected call is not a JSON object, because no response can match it. Both of
    ToolAlpaca's evaluation files have such rows, so they need ``on_bad_row: skip``: 4 of the 114 questions in
    ``eval_real.json``, and in ``eval_simulated.json`` those with a placeholder for the result of an earlier call
    (``${userId from searchUser}``).

    Arguments: see :class:`RowDataModule`.
    """

    def parts(self, row: Row, where: str, trained: bool) -> Sequence[Part]:
        """Divide an entry of ToolAlpaca into its questions; any other row is one example."""
        return divide_entry(row, where, trained) if is_tool_alpaca(row) else super().parts(row, where, trained)

    def example(self, row: Row, where: str, name: str, trained: bool) -> Example | None:
        """Make an example of a row; ``None`` for a run of ToolAlpaca's agent that calls no tool."""
        if is_tool_alpaca(row):
            prepared = prepare_entry(row, where)
            if prepared is None:
                return None
            texts = (prepared[column] for column in ("name", "description", "nl_documentation", "instruction"))
            row = prepared | {"prompt": tool_use_prompt(*texts)}
        demonstration = None
        if trained:
            lines = take(row, "golden_response", list, where)
            if not all(isinstance(line, str) for line in lines) or not "".join(lines).strip():
                raise DataError(
                    f"{where}: column 'golden_response' must be a list of strings, not empty; correct the row"
                )
            demonstration = "\n".join(lines)
        prompt: list[Message] = [{"role": "user", "content": take(row, "prompt", str, where)}]
        return Example(name, prompt, demonstration, reference=_expected_calls(row, where))

    def evaluation_set(self, examples: Sequence[Example], split: str) -> EvaluationSet:
        """Combine examples with both graders."""
        return EvaluationSet(examples, {"tool_use": PublishedToolUse(), "tool_use_corrected": CorrectedToolUse()})


def _expected_calls(row: Row, where: str) -> list[dict[str, str]]:
    """The expected calls, checked: each has a name and a JSON object as input."""
    given = take(row, "golden_answer", object, where)
    if isinstance(given, dict):  # some versions of the datasets library turn a list of objects into a dict of lists
        columns = (take(given, key, list, f"{where}, 'golden_answer'") for key in CALL)
        row = {"golden_answer": [dict(zip(CALL, values, strict=True)) for values in zip_longest(*columns)]}
    calls = take(row, "golden_answer", list, where)
    if not calls:
        raise DataError(f"{where}: column 'golden_answer' is empty; leave the row out")
    for index, call in enumerate(calls, start=1):
        if not isinstance(call, dict):
            raise DataError(f"{where}: action {index} of 'golden_answer' is not an object; correct the row")
        name, arguments = (take(call, key, str, f"{where}, action {index} of 'golden_answer'") for key in CALL)
        if canonical_arguments(arguments) is None:
            raise DataError(
                f"{where}, action {index} of 'golden_answer': the Action_Input of {name!r} is no JSON object; correct "
                "the row"
            )
    return calls
