"""What one model got right, question by question: the base model or one that a method has trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_sdft.experiments.runs.details import Details, Verdicts
from lightning_sdft.experiments.runs.run import ACCURACY, AVERAGE, PRIOR

__all__ = ["KEPT", "NEW", "Point", "Result", "benchmarks", "prior_curves", "way"]

NEW, KEPT = "new_task", "prior"
"""Measures: accuracy on the new task, and the mean over the prior tasks; any other names a set of questions."""


@dataclass(frozen=True)
class Point:
    """A validation on the way of a run.

    Args:
        new: Accuracy on the new task.
        kept: Accuracy on each prior task, and their mean as ``prior``.
    """

    new: float
    kept: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """What a model got right.

    Args:
        domain: What was learned.
        method: The method.
        seed: The seed.
        accuracies: Accuracy on the test split by measure.
        verdicts: By measure, for each of its sets the verdict on each question; measures without verdicts are left out.
        way: The validations, up to the weights that were evaluated.
        teacher: Accuracy of the teacher, shown the demonstrations, when training began.
    """

    domain: str
    method: str
    seed: int
    accuracies: Mapping[str, float]
    verdicts: Mapping[str, Verdicts] = field(default_factory=dict)
    way: Sequence[Point] = ()
    teacher: float | None = None

    @classmethod
    def of(
        cls,
        domain: str,
        method: str,
        seed: int,
        metrics: Mapping[str, float],
        details: Details,
        validation: float | None = None,
    ) -> Result:
        """The result of a run.

        Args:
            domain: See :class:`Result`.
            method: See :class:`Result`.
            seed: See :class:`Result`.
            metrics: The metrics of its outcome.
            details: Its details.
            validation: Accuracy of the evaluated weights on the validation split, which says how far its way goes.
        """
        new = _below(metrics, f"{ACCURACY}/")
        kept = _below(metrics, PRIOR)
        accuracies = dict(new) if len(new) > 1 else {}
        accuracies |= {NEW: metrics[ACCURACY]} if ACCURACY in metrics else {}
        accuracies |= {KEPT if name == AVERAGE else name: value for name, value in kept.items()}
        taught = details.curves.get("teacher/accuracy", {})
        return cls(
            domain,
            method,
            seed,
            accuracies,
            _verdicts(details.verdicts, accuracies),
            way(details.curves.get(ACCURACY.replace("test", "val"), {}), prior_curves(details.curves), validation),
            taught[min(taught)] if taught else None,
        )


def benchmarks(results: Sequence[Result]) -> list[str]:
    """The names of the sets of questions that any of the results has, the new ones first if there are several."""
    return [
        name for name in dict.fromkeys(each for one in results for each in one.accuracies) if name not in (NEW, KEPT)
    ]


def prior_curves(curves: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    """The curves of prior tasks among those of a run, and that of their mean, by measure."""
    found = {name.removeprefix("prior/"): curve for name, curve in curves.items() if name.startswith("prior/")}
    return {KEPT if name == AVERAGE else name: curve for name, curve in found.items()}


def way(
    new: Mapping[int, float], kept: Mapping[str, Mapping[int, float]], validation: float | None = None
) -> list[Point]:
    """The validations of a run at which something that is to be kept was validated, too.

    Args:
        new: Accuracy on the new task by step.
        kept: By measure the accuracy on what is to be kept by step.
        validation: Accuracy of the evaluated weights, at which the way ends; by default it goes on to the last step.
    """
    points: list[Point] = []
    for step in sorted(new):
        here = {name: curve[step] for name, curve in kept.items() if step in curve}
        if not here:
            continue
        points.append(Point(new[step], here))
        if validation is not None and abs(new[step] - validation) < 1e-6:
            break
    return points


def _below(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _verdicts(found: Verdicts, accuracies: Mapping[str, float]) -> dict[str, Verdicts]:
    """The verdicts by measure; a mean has them only if all that it is over have them."""
    new = {name.removeprefix(f"{ACCURACY}/"): each for name, each in found.items() if name.startswith(f"{ACCURACY}/")}
    kept = {name.removeprefix(PRIOR): each for name, each in found.items() if name.startswith(PRIOR)}
    by_measure: dict[str, Verdicts] = {
        name: {name: each} for name, each in {**new, **kept}.items() if name in accuracies
    }
    if new and NEW in accuracies:
        by_measure[NEW] = new
    asked = [name for name in accuracies if name not in (NEW, KEPT) and name not in new]
    if KEPT in accuracies and asked and all(name in kept for name in asked):
        by_measure[KEPT] = kept
    return by_measure
