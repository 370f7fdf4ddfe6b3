"""Settings for a first run on rows of one's own: from the rows, the model and the memory, as a config with comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import yaml

from lightning_sdft.data.templates import AUTHORS_TEMPLATE, teacher_messages
from lightning_sdft.policy import Tokenizer
from lightning_sdft.records import Example

__all__ = [
    "Budgets",
    "Grading",
    "Method",
    "Sizes",
    "budgets",
    "config_text",
    "grading",
    "in_steps",
    "learning_rate",
    "sizes",
]

Method = Literal["sdft", "sft", "dft"]
"""The methods that learn from demonstrations alone."""

STEP = 16
"""Budgets are multiples of so many tokens."""

STEPS = 100
"""Optimizer steps of a first run, if the rows are few enough to be read more than once."""

MOST_EPOCHS = 10

HELD_OUT = 128
"""Questions of validation and of the test, if there are rows enough."""

EVALUATED = 50
"""Optimizer steps between two validations, if an epoch has more than twice as many."""

FEW_WORDS = 5
"""A demonstration of so many words is an answer, and can be compared word for word."""

ANSWERS = ("reference", "answer", "label", "target", "gold", "solution")
"""Names of columns that are looked at first for what an answer is compared with."""

Row = Mapping[str, Any]

Settings = Mapping[str, Any]
"""Nested settings; a pair is a value with its comment."""


@dataclass(frozen=True)
class Budgets:
    """Numbers of tokens that sequences may have.

    Args:
        prompt: Tokens of the prompt.
        completion: Tokens of the response.
        demonstration: Tokens of a demonstration.
        teacher: Tokens of the prompt as the teacher sees it, with the demonstration.
        left_out: Number of examples that are longer.
    """

    prompt: int
    completion: int
    demonstration: int
    teacher: int
    left_out: int


@dataclass(frozen=True)
class Grading:
    """What answers are compared with.

    Args:
        column: The column of the reference.
        contained: Whether it is right if the answer has it in it; otherwise if the answer is it.
    """

    column: str
    contained: bool


@dataclass(frozen=True)
class Sizes:
    """How many rows a step and a run have.

    Args:
        batch: Prompts in an optimizer step.
        epochs: Passes through the training rows.
        held_out: Share of the rows for each set that is held out.
        steps: Optimizer steps of an epoch.
    """

    batch: int
    epochs: int
    held_out: float
    steps: int


def budgets(tokenizer: Tokenizer, examples: Sequence[Example], sampled: bool) -> Budgets:
    """Budgets for nearly all examples; only where a few are much longer than the others are those left out.

    Args:
        tokenizer: The model's tokenizer.
        examples: The examples, with demonstrations.
        sampled: Whether the model writes responses of its own, which are longer at first than the demonstrations.
    """
    prompts = list(map(len, tokenizer.encode_all([each.prompt for each in examples])))
    shown = list(map(len, tokenizer.encode_all([teacher_messages(each, AUTHORS_TEMPLATE) for each in examples])))
    completions = [len(tokenizer.encode_completion(each.demonstration or "")) for each in examples]
    longest = _budget(completions)
    found = Budgets(_budget(prompts), longest, longest, _budget(shown), 0)
    left_out = sum(
        prompt > found.prompt or completion > found.completion or (sampled and teacher > found.teacher)
        for prompt, completion, teacher in zip(prompts, completions, shown, strict=True)
    )
    room = max(2 * STEP, in_steps(1.5 * found.completion)) if sampled else found.completion
    return replace(found, completion=room, left_out=left_out)


def sizes(rows: int, sets: int) -> Sizes:
    """A batch, a number of epochs and a share of held-out rows.

    Args:
        rows: Number of rows.
        sets: How many sets (validation, test) are to be held out of the rows; others have files of their own.

    Returns:
        About a hundred steps for up to three thousand rows, and one epoch of more.
    """
    held_out = min(HELD_OUT, rows // 5)
    trained = rows - sets * held_out
    batch = next((each for each in (32, 16) if trained >= 40 * each), 8 if trained >= 160 else min(4, trained))
    steps = trained // batch
    epochs = min(MOST_EPOCHS, max(1, round(STEPS / max(steps, 1))))
    return Sizes(batch, epochs, round(held_out / rows, 3), steps)


def grading(
    rows: Sequence[Row], examples: Sequence[Example], demonstration: str | None, unused: Sequence[str]
) -> Grading | None:
    """Find out what answers can be compared with: a column whose texts are in the demonstrations, or those themselves.

    Args:
        rows: The rows.
        examples: The examples that were made of them.
        demonstration: The column of demonstrations, if they are no last turns of conversations.
        unused: Columns that are read as nothing else.

    Returns:
        Nothing if the demonstrations are free text.
    """
    named = [name for name in unused if name.casefold() in ANSWERS]
    for name in [*named, *(name for name in unused if name not in named)]:
        texts = [str(row.get(name) or "").strip() for row in rows]
        pairs = list(zip(texts, examples, strict=False))
        inside = sum(bool(text) and text.casefold() in (each.demonstration or "").casefold() for text, each in pairs)
        if len(set(texts)) > 1 and max(map(len, texts)) > 1 and inside >= 0.95 * len(pairs):
            return Grading(name, contained=True)
    short = [len((each.demonstration or "").split()) <= FEW_WORDS for each in examples]
    if demonstration is not None and sum(short) >= 0.95 * len(short):
        return Grading(demonstration, contained=False)
    return None


def learning_rate(parameters: int, method: Method, lora: bool) -> float:
    """A learning rate to begin with: small models take more than the paper's 1e-5, and adapters ten times as much."""
    rate = 5e-5 if parameters < 5 * 10**8 and method == "sdft" else 1e-5
    return 10 * rate if lora and rate < 5e-5 else 2 * rate if lora else rate


def config_text(head: Sequence[str], settings: Settings) -> str:
    """A config as YAML.

    Args:
        head: The lines of the comment at its top.
        settings: The settings, each with a comment where it has something to say. Those of ``None`` are left out.
    """
    return "\n".join([*(f"# {line}" for line in head), *_lines(settings, 0)]) + "\n"


def _lines(settings: Settings, depth: int) -> list[str]:
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{name}:", *_lines(value, depth + 1)]
            continue
        setting, comment = value if isinstance(value, tuple) else (value, "")
        if setting is not None:
            style = '"' if isinstance(setting, str) and "\n" in setting else None
            text = yaml.safe_dump(setting, default_flow_style=True, default_style=style, width=10**6)
            text = text.removesuffix("...\n").strip()
            lines.append(f"{'  ' * depth}{name}: {text}{f' # {comment}' if comment else ''}")
    return lines


def _budget(lengths: Sequence[int]) -> int:
    ordered = sorted(lengths)
    longest, common = ordered[-1], ordered[ceil(0.95 * len(ordered)) - 1]
    return in_steps(longest if longest <= 2 * common else ordered[ceil(0.99 * len(ordered)) - 1])


def in_steps(tokens: float) -> int:
    """A budget of so many tokens or a few more."""
    return STEP * ceil(tokens / STEP)
