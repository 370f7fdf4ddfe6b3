"""What a policy scored on public benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PriorScore", "PriorScores"]


@dataclass(frozen=True)
class PriorScore:
    """What a policy scored on a task.

    Args:
        task: Name of the task as it was asked for.
        metric: What was measured, as the harness names it: ``<task>:<metric>``.
        score: The score; an accuracy is a share, not a percentage.
        stderr: Its standard error as the harness estimates it, ``None`` where it does not.
        questions: Number of questions.
        higher_is_better: Whether a higher score is a better one; scores of other tasks (perplexities) are not averaged.
    """

    task: str
    metric: str
    score: float
    stderr: float | None
    questions: int
    higher_is_better: bool = True

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval, by the normal approximation: the score -+ 1.96 standard errors."""
        return None if self.stderr is None else (self.score - 1.96 * self.stderr, self.score + 1.96 * self.stderr)


@dataclass(frozen=True)
class PriorScores:
    """What a policy scored on several tasks.

    Args:
        scores: One of each task.
        limit: Questions of each task that were asked at most; ``None`` for all.
        lm_eval_version: Version of the harness, on which scores depend.
    """

    scores: tuple[PriorScore, ...]
    limit: int | None
    lm_eval_version: str

    @property
    def averaged(self) -> tuple[str, ...]:
        """The tasks that the average is over."""
        return tuple(score.task for score in self.scores if score.higher_is_better)

    @property
    def average(self) -> PriorScore | None:
        """The unweighted mean of the tasks, with the standard error of a mean of independent scores."""
        scores = [score for score in self.scores if score.higher_is_better]
        if not scores:
            return None
        errors = [score.stderr for score in scores if score.stderr is not None]
        stderr = math.hypot(*errors) / len(scores) if len(errors) == len(scores) else None
        mean = sum(score.score for score in scores) / len(scores)
        return PriorScore("average", "average", mean, stderr, sum(score.questions for score in scores))
