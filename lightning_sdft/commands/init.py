"""The command ``init``: reads rows and a model, and writes a config that runs."""

from __future__ import annotations

import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_sdft.commands.first_answers import FirstAnswers, ask_first, settle_answers
from lightning_sdft.commands.first_config import (
    EVALUATED,
    Budgets,
    Grading,
    Method,
    Sizes,
    budgets,
    config_text,
    grading,
    in_steps,
    sizes,
)
from lightning_sdft.commands.first_fit import built, is_elsewhere, quietly, settle
from lightning_sdft.commands.next_steps import say
from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.data.layouts import AUTO, Layout, find_layout
from lightning_sdft.data.tables import Row, open_rows
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.policy import load_tokenizer
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example
from lightning_sdft.settings import Natural, check_ranges
from lightning_sdft.storage.atomic import write_text

__all__ = ["init"]

Device = Literal["auto", "cpu", "gpu"]

LOOKED_AT = 2000
"""Number of rows whose lengths are looked at."""

LONGER = 3
"""How much longer than the demonstrations the model's first answers may be when it is asked, before they are cut."""

LONGEST = 1024
"""Tokens at which first answers are cut, unless demonstrations are as long."""


def init(
    data: str | None = None,
    model: str | None = None,
    method: Method = "sdft",
    device: Device = "auto",
    validation: str | None = None,
    test: str | None = None,
    prior: str | None = None,
    keep: str | None = None,
    prompt_column: str = AUTO,
    demonstration_column: str = AUTO,
    questions: Natural = 16,
    output: str = "run.yaml",
    overwrite: bool = False,
) -> Path:
    """Read your rows and a model, and write a commented config that runs.

    How the columns are understood, the lengths, the batch, the epochs, the micro-batches that fit and what answers are
    compared with are found out and said. For SDFT the model itself is asked a few of the questions, by itself and shown
    the demonstrations, at several temperatures and with several prompts: what it answers best with is written down. In
    a terminal it asks for what is not given.

    Args:
        data: File, folder or hub id of the rows: prompts with responses, or conversations.
        model: Folder, hub id or .gguf file of the model.
        method: How to train: ``sdft``, ``sft`` or ``dft``.
        device: Where to train; ``auto`` takes a GPU if there is one.
        validation: Rows evaluated during training; by default a share of the rows is held out.
        test: Rows of the test; by default a share of the rows is held out.
        prior: Rows of what the model can do, in the columns of the others; their accuracy shows what it has kept.
        keep: Rows of prompts of what the model can do and is to keep; each step holds the model to some of them.
        prompt_column: Column of the prompts, if it is not found.
        demonstration_column: Column of the responses to learn from, if it is not found.
        questions: Number of training questions that the model is asked; with 0 it is not loaded, and keeps defaults.
        output: The YAML file to write.
        overwrite: Whether to replace a file that is there.

    Returns:
        The path of the config.

    Raises:
        SettingError: If something is not given and nobody can be asked, or if there is such a file already.
        DataError: If the rows cannot be read, or have no demonstrations.
        PolicyError: If the model cannot be used, or fits in no way.
    """
    check_ranges(init, locals())
    path = Path(output)
    if path.exists() and not overwrite:
        raise SettingError(f"{path} is there already; give --output another name, or --overwrite=true to replace it")
    data = data or _ask("data", "File with your rows (JSON, JSON Lines, CSV, Parquet): ")
    model = model or _ask("model", "Model (folder, hub id or .gguf file): ")
    rows = open_rows(data)
    looked_at = list(islice(rows, LOOKED_AT))
    layout = _layout(data, looked_at, prompt_column, demonstration_column)
    if layout.demonstration is None:
        raise DataError(f"{data}: {layout}; {method} learns from demonstrations, so give rows that have them")
    print(f"{data}: {count_text(len(rows), 'row')}; {layout}", flush=True)
    tokenizer = load_tokenizer(model)
    examples = _examples(data, layout)[:LOOKED_AT]
    lengths = budgets(tokenizer, examples, sampled=method == "sdft")
    numbers = sizes(len(rows), sets=[validation, test].count(None))
    column = None if layout.is_conversation else layout.demonstration
    graded = grading(looked_at, examples, column, layout.unused)
    print(_said(lengths, graded), flush=True)
    files = {"train": data, "validation": validation, "test": test, "prior": prior}
    settings: dict[str, Any] = {
        "config": [f"method/{method}"],
        "model": _model(model, method, lengths, keep),
        "data": {"class_path": "JsonDataModule", "init_args": _data(files, layout, graded, numbers)},
        "trainer": _trainer(_on_gpu(device), numbers, f"{path.stem}_{method}"),
    }
    settled = settle(settings, method)
    if method == "sdft" and questions and not is_elsewhere(settings):
        print(f"{model}: {settled}; it is asked {questions} questions in several ways", flush=True)
        _take(settings, _answers(settings, questions, lengths, graded is not None))
        settled = settle(settings, method)
    steps = _steps(path, method)
    head = [
        f"{method.upper()} of {model} on {data}: written by `lightning-sdft init`, to be changed as you like.",
        *(f"  {command}" for command in steps.values()),
    ]
    write_text(path, config_text(head, settings))
    print(f"{model}: {settled}")
    say([path], steps)
    return path


def _answers(settings: dict[str, Any], questions: int, lengths: Budgets, graded: bool) -> FirstAnswers:
    """What the model answers to some of the questions, and what follows for its settings."""
    limit = max(lengths.completion, min(in_steps(LONGER * lengths.demonstration), LONGEST))
    own = settings["model"]["init_args"] | {"max_completion_tokens": limit}
    with quietly():
        gaps = ask_first(built({**settings, "model": {"init_args": own}}, on_device=True), questions)
    return settle_answers(gaps, graded, lengths.demonstration, limit)


def _take(settings: dict[str, Any], found: FirstAnswers) -> None:
    settings["model"]["init_args"] |= found.settings
    print(found.said)


def _ask(name: str, question: str) -> str:
    """What the user types, if there is one."""
    if not sys.stdin.isatty():
        raise SettingError(f"--{name} is not given; give it, or run the command in a terminal, where it asks")
    return input(question).strip() or _ask(name, question)


def _layout(data: str, rows: list[Row], prompt: str, demonstration: str) -> Layout:
    try:
        return find_layout(rows, prompt, demonstration, setting="init")
    except DataError as error:
        raise DataError(f"{data}: {str(error).replace('init.', '--')}") from error


def _examples(data: str, layout: Layout) -> list[Example]:
    module = JsonDataModule(train=data, prompt_column=layout.prompt, demonstration_column=layout.demonstration)
    with quietly():
        return list(module.splits.train)


def _said(lengths: Budgets, graded: Grading | None) -> str:
    if graded is None:
        how = "the likelihood of held-out demonstrations is measured; for accuracy, add a column of references"
    elif graded.contained:
        how = f"answers are right if they contain {graded.column!r}"
    else:
        how = f"answers are right if they are {graded.column!r}"
    left_out = f"; {count_text(lengths.left_out, 'longer row')} left out" if lengths.left_out else ""
    return f"tokens: prompts up to {lengths.prompt}, responses up to {lengths.completion}{left_out}; {how}"


def _model(model: str, method: Method, lengths: Budgets, keep: str | None) -> dict[str, Any]:
    longer = "the demonstrations' lengths and half as much again: own answers are longer at first"
    return {
        "init_args": {
            "model": model,
            "learning_rate": None,
            "max_prompt_tokens": lengths.prompt,
            "max_completion_tokens": (lengths.completion, longer if method == "sdft" else ""),
            "max_teacher_prompt_tokens": lengths.teacher if method == "sdft" else None,
            "over_budget": ("drop", count_text(lengths.left_out, "longer row")) if lengths.left_out else None,
            "retention": None
            if keep is None
            else ({"data": keep}, "each step holds the model to what it said to these"),
        }
    }


def _data(files: dict[str, str | None], layout: Layout, graded: Grading | None, numbers: Sizes) -> dict[str, Any]:
    share = numbers.held_out or None
    grader = None
    if graded is not None:
        grader = "AnswerContained" if graded.contained else "ExactMatch"
    return {
        **files,
        "validation_share": None if files["validation"] else share,
        "test_share": None if files["test"] else share,
        "prompt_column": (layout.prompt, str(layout)),
        "demonstration_column": layout.demonstration,
        "reference_column": (graded.column, "what answers are compared with") if graded else None,
        "grader": grader,
        "batch_size": (numbers.batch, f"{count_text(numbers.steps, 'step')} an epoch"),
        "micro_batch_size": None,
    }


def _trainer(gpu: bool, numbers: Sizes, name: str) -> dict[str, Any]:
    often = round(max(EVALUATED / numbers.steps, 0.01), 2) if numbers.steps > 2 * EVALUATED else None
    return {
        "accelerator": "gpu" if gpu else "cpu",
        "devices": 1,
        "precision": "bf16-mixed" if gpu else "32-true",
        "max_epochs": (numbers.epochs, count_text(numbers.epochs * numbers.steps, "optimizer step")),
        "val_check_interval": (often, f"a validation every {EVALUATED} steps or so") if often else None,
        "logger": {"init_args": {"name": name}},
    }


def _steps(path: Path, method: Method) -> dict[str, str]:
    fit = f"lightning-sdft fit --config {shlex.quote(str(path))}"
    if method != "sdft":
        return {"train": fit}
    return {"check": fit.replace(" fit ", " preflight "), "train": fit}


def _on_gpu(device: Device) -> bool:
    return device == "gpu" or (device == "auto" and torch.accelerator.is_available())
