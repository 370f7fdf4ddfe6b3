"""What is measured of student and teacher on examples that are held out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import distributed

from lightning_sdft.callbacks.held_out import HeldOut
from lightning_sdft.distributed.processes import process_count
from lightning_sdft.records import GREEDY, Sampling

__all__ = ["STRESSED", "Measures", "mean_score", "measure", "measure_under_stress", "repetition"]

Measures = dict[str, float]
"""Values by metric name; also the optimizer step as ``step``, the number of ``questions``, and of those ``sampled``."""

STRESS = 1.5
"""Factor on the temperature at which the student is asked what it knows well."""

STRESSED = "student/in_context_stressed"
"""The metric of the student that is asked so."""

PART = 4
"""One question of so many is also asked in other ways, which together would take more time than the rest."""


def measure(held_out: HeldOut, step: int) -> Measures:
    """Ask the student and the teacher, both shown the demonstrations, and a part of the questions in other ways too.

    That part is answered by the student alone, and by the student alone and the teacher as in training, sampled. The
    student that is shown the demonstrations is also asked to sample, at a higher temperature than in training: what it
    knows less well goes wrong there before it does so otherwise. All other answers are greedy. All processes must call
    this together.

    Args:
        held_out: The questions.
        step: The number of optimizer steps taken.
    """
    held_out = held_out.attempted()
    module, sampling = held_out.module, held_out.module.sampling
    student, teacher, part = module.policy, module.teacher.policy, held_out.part(PART)
    whole, few = len(held_out.examples), len(part.examples)
    (shown, _), (stressed, _) = held_out.scores_each(student, True, [(GREEDY, whole), (_stressed(sampling), whole)])
    (taught, answers), (taught_sampled, _) = held_out.scores_each(teacher, True, [(GREEDY, whole), (sampling, few)])
    (alone, _), (sampled, rollouts) = part.scores_each(student, False, [(GREEDY, few), (sampling, few)])
    if held_out.grader is None:
        answers, rollouts = part.answers(teacher, True, GREEDY), part.answers(student, False, sampling)
    lengths = _all([float(len(rollout.completion)) for rollout in rollouts])
    means = {
        "teacher/accuracy": taught,
        "teacher/accuracy_sampled": taught_sampled,
        "teacher/gain": [after - before for after, before in zip(taught, alone, strict=False)],
        "teacher/gain_sampled": [after - before for after, before in zip(taught_sampled, sampled, strict=True)],
        "teacher/demonstration_kl": part.effect(teacher, answers[: len(alone)]),
        "student/alone": alone,
        "student/alone_sampled": sampled,
        "student/in_context": shown,
        "rollout/cut": [float(not rollout.finished) for rollout in rollouts],
        "rollout/empty": [float(not module.tokenizer.answer(each.completion).strip()) for each in rollouts],
        "rollout/end_log_probability": [each.log_probabilities[-1] for each in rollouts if each.finished],
        "rollout/repetition": [repetition(module.tokenizer.decode(each.completion)) for each in rollouts],
    }
    return {
        **_under_stress(stressed, step),
        "sampled": len(lengths),
        **{name: mean_score(values) for name, values in means.items()},
        "rollout/length_p50": _quantile(lengths, 0.5),
        "rollout/length_p95": _quantile(lengths, 0.95),
    }


def measure_under_stress(held_out: HeldOut, step: int) -> Measures:
    """Ask only the student that is shown the demonstrations, at the higher temperature; see :func:`measure`."""
    held_out = held_out.attempted()
    scores, _ = held_out.scores(held_out.module.policy, True, _stressed(held_out.module.sampling))
    return _under_stress(scores, step)


def mean_score(scores: Sequence[float]) -> float:
    """The mean of the scores of all processes that are numbers; NaN if there are none."""
    return _mean(_all(scores))


def repetition(text: str) -> float:
    """How many times shorter zlib makes a text; up to 1 for short or varied text, 10 and more for one that repeats."""
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0


def _stressed(sampling: Sampling) -> Sampling:
    return replace(sampling, temperature=min(STRESS * sampling.temperature, 100.0))


def _under_stress(scores: Sequence[float], step: int) -> Measures:
    return {"step": step, "questions": len(_all(scores)), STRESSED: mean_score(scores)}


def _all(values: Sequence[float]) -> list[float]:
    """The values of all processes."""
    if process_count() == 1:
        return list(values)
    gathered: list[Any] = [None] * process_count()
    distributed.all_gather_object(gathered, list(values))
    return list(chain.from_iterable(gathered))


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are numbers; NaN if there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _quantile(values: Sequence[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()
