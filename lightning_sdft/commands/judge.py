"""Judge answers after the evaluation: those that the judge failed on, or all those in a prediction file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from lightning_sdft.chat.base import ChatModel
from lightning_sdft.chat.journal import Journal
from lightning_sdft.data.tables import take
from lightning_sdft.errors import DataError
from lightning_sdft.grading.interval import bootstrap
from lightning_sdft.grading.judge import Judge, judged_responses, question_and_answer
from lightning_sdft.grading.judge_prompts import JudgePrompt
from lightning_sdft.settings import Count, check_ranges

__all__ = ["judge"]


def judge(
    responses: str,
    chat: ChatModel,
    prompt: JudgePrompt | Literal["medical", "knowledge"],
    folder: str | None = None,
    attempts: Count = 3,
) -> None:
    """Judge responses that have no verdict yet, and print the share of each verdict with its 95% interval.

    A judge's folder holds the different responses of all evaluations of a run together. For the accuracy of one
    evaluation, give the predictions of that evaluation. Each verdict is added to the folder at once, so the command can
    be stopped and started again.

    Args:
        responses: A judge's folder, or a file with one JSON object per line, such as ``predictions.jsonl``. Each object
            has a ``response`` and a ``reference`` with ``question`` and ``answer``.
        chat: The chat model to ask, such as ``Endpoint`` with ``--chat.model`` and ``--chat.base_url``.
        prompt: The prompt for the judge, or the name of one of the paper's prompts.
        folder: The judge's folder, where verdicts are kept; by default that of the responses.
        attempts: How often the judge is asked at most, until its reply is a label and nothing else.

    Raises:
        DataError: If there are no responses, or if a row cannot be judged.
        ChatError: If the judge cannot be used at all.
    """
    check_ranges(judge, locals())
    source = Path(responses)
    rows = judged_responses(source) if source.is_dir() else Journal(source).records()
    if not rows:
        raise DataError(f"there are no responses in {responses!r}; give the folder of a judge, or a prediction file")
    given, pairs = [], []
    for number, row in enumerate(rows, start=1):
        where = f"{responses}, row {number}"
        given.append(take(row, "response", str, where))
        try:
            pairs.append(question_and_answer(take(row, "reference", dict, where)))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    asked = Judge(chat, prompt, folder or str(source if source.is_dir() else source.parent), attempts)
    labels = asked.labels([question for question, _ in pairs], [answer for _, answer in pairs], given, progress=True)
    _report(labels, asked.prompt.labels)


def _report(labels: list[str | None], known: tuple[str, ...]) -> None:
    graded = [label for label in labels if label is not None]
    for count in range(1, len(known)):
        accepted = known[:count]
        score = bootstrap([torch.tensor([float(label in accepted) for label in graded])])
        print(f"{' or '.join(accepted)}: {score.value:.3f} ({score.low:.3f} to {score.high:.3f})")
    print(f"graded: {len(graded)}, ungraded: {len(labels) - len(graded)}")
