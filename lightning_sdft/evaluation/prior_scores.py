"""Scores of a policy on public benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PriorScore", "PriorScores"]


@dataclass(frozen=True)
class PriorScore:
    """A policy's score on one task.

    Args:
        task: Name of the task as the user gave it.
        metric: The harness's task and metric: ``<task>:<metric>``.
        score: The score; an accuracy is a fraction, not a percentage.
        stderr: The harness's estimate of the standard error; ``None`` if it has none.
        questions: Number of questions.
        higher_is_better: Whether a higher score is better. Other scores, such as perplexities, are not averaged.
    """

    task: str
    metric: str
    score: float
    stderr: float | None
    questions: int
    higher_is_better: bool = True

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval in the normal approximation: the score +- 1.96 standard errors."""
        return None if self.stderr is None else (self.score - 1.96 * self.stderr, self.score + 1.96 * self.stderr)


@dataclass(frozen=True)
class PriorScores:
    """A policy's scores on several tasks.

    Args:
        scores: One score per task.
        limit: Maximum number of questions per task; ``None`` means all.
        lm_eval_version: Version of the harness, because scores depend on it.
        verdicts: By task, whether each question was answered right; tasks whose scores are no shares of right answers
            are left out.
    """

    scores: tuple[PriorScore, ...]
    limit: int | None
    lm_eval_version: str
    verdicts: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the tasks that the average is over."""
        return tuple(score.task for score in self.scores if score.higher_is_better)

    @property
    def average(self) -> PriorScore | None:
        """The unweighted mean over the tasks, with the standard error of a mean of independent scores."""
        scores = [score for score in self.scores if score.higher_is_better]
        if not scores:
            return None
        errors = [score.stderr for score in scores if score.stderr is not None]
        stderr = math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None
        mean = sum(score.score for score in scores) / len(scores)
        return PriorScore("average", "average", mean, stderr, sum(score.questions for score in scores))
