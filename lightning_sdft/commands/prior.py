"""Evaluates a model or a checkpoint on prior tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from lightning_sdft.checkpoint import load_policy
from lightning_sdft.evaluation.prior_scores import PriorScore, PriorScores
from lightning_sdft.evaluation.prior_tasks import PAPER_TASKS, PriorSuite
from lightning_sdft.settings import Count, check_ranges

__all__ = ["prior"]

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def prior(
    model: str | None = None,
    tasks: str = ",".join(PAPER_TASKS),
    checkpoint: str | None = None,
    limit: Count | None = None,
    include_path: str | None = None,
    allow_code_execution: Sequence[str] = (),
    output: str | None = None,
    batch_tokens: Count = 16384,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> PriorScores:
    """Evaluate a model on public benchmarks, to see what it has forgotten (extra ``eval``).

    Prompts have no chat template and, in the paper's tasks, no examples. The table shows which metric of a task counts.
    The average is the unweighted mean of the tasks named below the table.

    Args:
        model: A Hugging Face folder or hub id, a ``.gguf`` file, or ``zoo/laptop``. With a checkpoint it gives only
            architecture and tokenizer; by default it is the model that the checkpoint was trained from.
        tasks: Names of tasks, separated by commas: the paper's, or others of the lm-evaluation-harness, of which the
            first metric counts, or ``<task>:<metric>``.
        checkpoint: Checkpoint file whose student is evaluated.
        limit: Ask only the first so many questions of each task (of each subject of MMLU); by default all.
        include_path: Folder of task files (YAML) of your own, for instance with local data instead of the hub's.
        allow_code_execution: Names of tasks that may run code that the model writes, on this machine with your rights,
            such as ``[humaneval]``. Without it such tasks are refused.
        output: JSON file to write the scores to.
        batch_tokens: Tokens in a batch, padding included; lower it if memory runs out.
        dtype: Precision of the weights; by default bfloat16 on an accelerator and float32 on a CPU.
        device: Where to compute, such as ``cuda:1``; by default an accelerator if there is one.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        PriorTaskError: If a task cannot be run.
        CheckpointError: If the checkpoint cannot be used.
    """
    check_ranges(prior, locals())
    suite = PriorSuite(tasks.split(","), include_path, allow_code_execution)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = PRECISIONS[dtype or ("float32" if where.type == "cpu" else "bfloat16")]
    policy = load_policy(model, checkpoint, trust_remote_code=trust_remote_code).to(where, precision)
    scores = suite.evaluate(policy, limit, batch_tokens, progress=True)
    name = model if checkpoint is None else checkpoint
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        record = {"model": model, "checkpoint": checkpoint, **as_json(scores)}
        Path(output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    Console().print(scores_table(scores, f"Prior tasks of {name}"))
    if output is not None:
        print(f"scores written to {output}")
    return scores


def as_json(scores: PriorScores) -> dict[str, Any]:
    """Scores with everything they depend on, as values of JSON."""

    def record(score: PriorScore) -> dict[str, Any]:
        return {
            "metric": score.metric,
            "score": score.score,
            "stderr": score.stderr,
            "interval": score.interval,
            "questions": score.questions,
        }

    average = None if scores.average is None else {**record(scores.average), "tasks": scores.averaged}
    return {
        "tasks": {score.task: record(score) for score in scores.scores},
        "average": average,
        "limit": scores.limit,
        "lm_eval_version": scores.lm_eval_version,
    }


def scores_table(scores: PriorScores, title: str) -> Table:
    """A row per task and the average, and below the table which tasks the average is over.

    Args:
        scores: The scores.
        title: Title of the table.
    """
    notes = [f"lm-eval {scores.lm_eval_version}, no chat template"]
    if scores.limit is not None:
        notes.append(f"the first {scores.limit} questions of each task")
    over = "the paper's six tasks"
    if set(scores.averaged) != set(PAPER_TASKS):
        over = f"{', '.join(scores.averaged) or 'nothing'}, not over {over}"
    caption = f"{', '.join(notes)}; the average is over {over}"
    table = Table(title=title, caption=caption)
    table.add_column("task")
    table.add_column("metric")
    for column in ("score", "95% interval", "questions"):
        table.add_column(column, justify="right")
    for score in scores.scores:
        _add_row(table, score)
    if scores.average is not None:
        table.add_section()
        _add_row(table, scores.average, style="bold")
    return table


def _add_row(table: Table, score: PriorScore, style: str = "") -> None:
    interval = "-" if score.interval is None else "{:.3f} to {:.3f}".format(*score.interval)
    table.add_row(score.task, score.metric, f"{score.score:.3f}", interval, str(score.questions), style=style)
