"""What wears out in self-distillation, judged by what was measured so far.

[1] Agresti and Caffo, Simple and Effective Confidence Intervals for Proportions and Differences of Proportions Result
    from Adding Two Successes and Two Failures, 2000, https://doi.org/10.1080/00031305.2000.10474560
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_sdft.callbacks.measures import STRESSED, Measures

__all__ = ["SIGNS", "Sign", "below_best", "worn"]


@dataclass(frozen=True)
class Sign:
    """A measure by which wear shows.

    Args:
        metric: Its name.
        worse: By how much a later value is worse than an earlier one, apart from chance.
        meaning: What it means and what to do, for the warning.
        if_followed: Whether it matters only if the teacher takes over what the student becomes.
        asked: The measure that says how many questions it is the mean of.
    """

    metric: str
    worse: Callable[[float, float, int], float]
    meaning: str
    if_followed: bool = False
    asked: str = "questions"


def fallen(before: float, now: float, count: int) -> float:
    """By how much a share of right answers has fallen beyond two standard errors of the difference.

    One right and one wrong answer are added to each share [1], because the error of a share of 0 or 1 is not 0.
    """
    earlier, later = ((share * count + 1) / (count + 2) for share in (before, now))
    error = math.sqrt((earlier * (1 - earlier) + later * (1 - later)) / (count + 2))
    return earlier - later - 2 * error


def risen(before: float, now: float, count: int) -> float:
    """By how much a share has risen beyond two standard errors of the difference."""
    return fallen(now, before, count)


def doubled(before: float, now: float, count: int) -> float:
    """By how much a value is more than twice what it was, relative to that."""
    return now / max(before, 1.0) - 2


LESS = "lower the learning rate, stop earlier, or let GatedTeacher take the place of EMATeacher"

FOLLOWED = (
    f"the student, shown what the teacher is shown, answers worse than it did, and the teacher follows it; {LESS}"
)

SIGNS = (
    Sign(STRESSED, fallen, FOLLOWED, if_followed=True),
    Sign("student/in_context", fallen, FOLLOWED, if_followed=True),
    Sign("teacher/accuracy", fallen, f"the teacher, shown more than the student, answers worse than it did; {LESS}"),
    Sign(
        "student/alone",
        fallen,
        "the student by itself answers worse than it did, whatever the teacher knows; lower the learning rate, or stop "
        "earlier",
        asked="sampled",
    ),
    Sign(
        "rollout/cut",
        risen,
        "the student's answers become longer, and more are cut at max_completion_tokens; raise it, or lower the "
        "learning rate",
        asked="sampled",
    ),
    Sign(
        "rollout/empty",
        risen,
        "the student ends more of its answers before it has said anything; lower the learning rate, or stop earlier",
        asked="sampled",
    ),
    Sign("rollout/repetition", doubled, f"the student's answers repeat themselves; {LESS}", asked="sampled"),
)
"""What is looked at, in the order in which it shows."""


def worn(history: Sequence[Measures], follows: bool, tolerance: float) -> dict[str, str]:
    """What is worn out at the last of several measures, and how it shows: texts by metric.

    Each measure is compared with the best of those before it.

    Args:
        history: The measures in the order of their steps; not each has all metrics.
        follows: Whether the teacher takes over what the student becomes.
        tolerance: How much worse a measure may be, apart from chance.
    """
    found = {}
    *before, now = history
    for sign in SIGNS:
        if sign.if_followed and not follows:
            continue
        value = now.get(sign.metric, math.nan)
        others = [each for each in before if not math.isnan(each.get(sign.metric, math.nan))]
        if math.isnan(value) or not others:
            continue
        count = int(now[sign.asked])
        losses = [sign.worse(each[sign.metric], value, count) for each in others]
        best = others[losses.index(max(losses))]
        if max(losses) > tolerance:
            found[sign.metric] = (
                f"{sign.metric} is {value:.2f} at step {now['step']:.0f}, after {best[sign.metric]:.2f} at step "
                f"{best['step']:.0f}: {sign.meaning}"
            )
    return found


def below_best(history: Sequence[Measures], metric: str) -> bool:
    """Whether the last value of a metric is lower than one before it, be it by chance."""
    values = [each[metric] for each in history if not math.isnan(each.get(metric, math.nan))]
    return bool(values) and values[-1] < max(values)
