"""Rows of science questions in each of their shapes, and prompts written out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_sdft.data.science import ScienceDataModule
from lightning_sdft.records import Example

__all__ = [
    "DEMONSTRATION",
    "SHAPES",
    "SYSTEM",
    "TEXTS",
    "WRITTEN",
    "Write",
    "choices",
    "demonstrated",
    "evaluated",
    "filling",
    "published",
    "sdpo",
    "trained",
    "turns",
    "undivided",
    "write",
]


SYSTEM = "\n".join(
    [
        "",
        "Given a question and four options, please select the right answer. Respond in the following format:",
        "<reasoning>",
        "...",
        "</reasoning>",
        "<answer>",
        "...",
        "</answer>",
        "",
        "For the answer, only output the letter corresponding to the correct option (A, B, C, or D), and nothing else. "
        'Do not restate the answer text. For example, if the answer is "A", just output:',
        "<answer>",
        "A",
        "</answer>",
        "",
    ]
)

TEXTS = ["hydrogen", "helium", "H: a salt", "none"]
WRITTEN = "Which gas number {n}  burns?\n\nA: hydrogen\nB: helium\nC: H: a salt\nD: none"
DEMONSTRATION = "<reasoning>\nIt burns.\n</reasoning>\n<answer>\nA\n</answer>"


def turns(n: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": WRITTEN.format(n=n)}]


def published(n: int, **changes: Any) -> dict[str, Any]:
    """A row of SciKnowEval."""
    row = {
        "prompt": {"default": "Please directly give the answer without any explanation."},
        "question": f"Which gas number {n}  burns?",
        "choices": {"text": TEXTS, "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
        "type": "mcq-4-choices",
        "domain": "Chemistry",
        "details": {"level": "L3", "task": "burning", "subtask": "gas", "source": "us"},
        "answer": "",
    }
    return row | changes


def filling(n: int) -> dict[str, Any]:
    choices = {"text": [], "label": []}
    return published(n, type="filling", choices=choices, answerKey="", answer="2H2 + O2 = 2H2O")


def trained(n: int, **changes: Any) -> dict[str, Any]:
    return {"messages": turns(n), "output_text": DEMONSTRATION} | changes


def evaluated(n: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": turns(n), "answer": "A"} | changes


def sdpo(n: int, **changes: Any) -> dict[str, Any]:
    row = {"idx": n, "kind": "mcq", "dataset": "sciknoweval", "answer": "A", "system": SYSTEM, "tests": "-"}
    return row | {"prompt": WRITTEN.format(n=n) + "\nPlease reason step by step."} | changes


def demonstrated(n: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"old-{n}", "prompt": turns(n), "reference": "A", "response": DEMONSTRATION} | changes


SHAPES = [published, trained, evaluated, sdpo, demonstrated]

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(rows: list[dict[str, Any]], name: str = "train.json") -> str:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    return to_file


def undivided(file: str, **arguments: Any) -> list[Example]:
    return list(ScienceDataModule(train=file, validation_share=0, test_share=0, **arguments).splits.train)


def choices(texts: list[Any] = TEXTS, labels: list[Any] | None = None) -> dict[str, Any]:
    return {"text": texts, "label": ["A", "B", "C", "D"] if labels is None else labels}
