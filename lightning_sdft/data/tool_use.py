"""Tool use: choose a tool from its documentation and write the call, after ToolAlpaca [2] as used in [1].

References:
    [1] Shenfeld et al., *Self-Distillation Enables Continual Learning*, 2026, https://arxiv.org/abs/2601.19897
    [2] Tang et al., *ToolAlpaca: Generalized Tool Learning for Language Models with 3000 Simulated Cases*, 2023,
        https://arxiv.org/abs/2306.05301
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_sdft.data.base import DemonstrationDataModule, EvaluationSet, Splits
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.data.tables import Row, hold_out, read_rows, take
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


class ToolUseDataModule(DemonstrationDataModule):
    """Tool calls with demonstrations, graded as published (``tool_use``) and without flaws (``tool_use_corrected``).

    All rows have the columns ``prompt`` (the whole user turn; :func:`tool_use_prompt` builds one) and ``golden_answer``
    (a list of ``{"Action": name, "Action_Input": JSON text}``), training rows also ``golden_response`` (a list of
    strings, the lines of the demonstration).

    Args:
        train: File, folder or hub id of the training rows; see :func:`~lightning_sdft.data.tables.read_rows`.
        validation: The same for rows evaluated during training.
        test: The same for rows evaluated by ``test`` and ``predict``.
        validation_share: Share of the training rows held out for validation, where ``validation`` is not given.
        split_seed: Seed of the choice of held-out rows.
        **kwargs: See :class:`DemonstrationDataModule`.

    Raises:
        DataError: If a validation share is given together with validation rows, or without training rows.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        validation_share: float = 0.0,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if validation_share and validation:
            raise DataError(
                f"data.validation and data.validation_share={validation_share} exclude each other; give one"
            )
        if validation_share and not train:
            raise DataError(f"data.validation_share={validation_share} is a share of data.train; give data.train")
        self.train = train
        self.validation = validation
        self.test = test
        self.validation_share = validation_share
        self.split_seed = split_seed

    def load(self) -> Splits:
        """Read the rows and hold out the share."""
        rows = _examples(self.train, "train") if self.train else []
        train, validation = hold_out(rows, [self.validation_share], self.split_seed)
        if self.validation:
            validation = _examples(self.validation, "validation")
        test = _examples(self.test, "test") if self.test else []
        return Splits(
            train,
            [_evaluation_set(validation, "validation")] if self.validation or self.validation_share else [],
            [_evaluation_set(test, "test")] if self.test else [],
        )


def _examples(source: str, split: str) -> list[Example]:
    rows = enumerate(read_rows(source, split), start=1)
    return [_example(row, source, number, trained=split == "train") for number, row in rows]


def _example(row: Row, source: str, number: int, trained: bool) -> Example:
    where = f"{source}, row {number}"
    demonstration = None
    if trained:
        lines = take(row, "golden_response", list, where)
        if not lines or not all(isinstance(line, str) for line in lines):
            raise DataError(f"{where}: column 'golden_response' must be a list of strings, not empty; correct the row")
        demonstration = "\n".join(lines)
    prompt = take(row, "prompt", str, where)
    reference = take(row, "golden_answer", list, where)
    for index, action in enumerate(reference, start=1):
        if not isinstance(action, dict):
            raise DataError(f"{where}: action {index} of 'golden_answer' is not an object; correct the row")
        for key in ("Action", "Action_Input"):
            take(action, key, str, f"{where}, action {index} of 'golden_answer'")
    try:
        return Example(
            id=f"{Path(source).stem}-{number}",
            prompt=[{"role": "user", "content": prompt}],
            demonstration=demonstration,
            reference=reference,
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _evaluation_set(examples: Sequence[Example], split: str) -> EvaluationSet:
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
