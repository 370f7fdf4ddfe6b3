"""Grouping examples by their question: holding questions out, and warning of those both trained on and evaluated."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from lightning_sdft.data.tables import hold_out
from lightning_sdft.records import Example, text_of

__all__ = ["first_of_each", "hold_out_questions", "question", "warn_of_overlap"]

log = logging.getLogger(__name__)


def question(example: Example) -> str:
    """The text that identifies an example's question: all turns but the system's, with white space normalized."""
    turns = (text_of(turn["content"]) for turn in example.prompt if turn["role"] != "system")
    return re.sub(r"\s+", " ", " ".join(turns)).strip()


def first_of_each(examples: Sequence[Example], asks: Callable[[Example], str] = question) -> list[Example]:
    """Keep only the first example of each question."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(asks(example), example)
    return list(first.values())


def hold_out_questions(
    examples: Sequence[Example], shares: Sequence[float], seed: int, asks: Callable[[Example], str] = question
) -> list[list[Example]]:
    """Like :func:`~lightning_sdft.data.tables.hold_out`, but all examples of a question go to the same part."""
    questions = list(dict.fromkeys(map(asks, examples)))
    parts = [set(part) for part in hold_out(questions, shares, seed)]
    return [[example for example in examples if asks(example) in part] for part in parts]


def warn_of_overlap(
    train: Sequence[Example], evaluated: Sequence[Example], split: str, asks: Callable[[Example], str] = question
) -> None:
    """Warn if evaluated questions are also trained on."""
    trained = set(map(asks, train))
    shared = [example.id for example in evaluated if asks(example) in trained]
    if shared:
        log.warning(
            "%d of %d %s questions, the first being %s, are also trained on: accuracy on them shows neither what was "
            "learned nor what was kept; remove them from training or from evaluation",
            len(shared),
            len(evaluated),
            split,
            shared[0],
        )
