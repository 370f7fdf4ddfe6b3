"""Answers to the sets of a data module, graded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_sdft.data.base import EvaluationSet
from lightning_sdft.data.example import DataError, Example
from lightning_sdft.grading.base import Grader

__all__ = ["GradedSets"]


class GradedSets(nn.Module):
    """The evaluation sets in the order of their loaders, with their graders, which move between devices with it."""

    def __init__(self, sets: Sequence[EvaluationSet] = ()) -> None:
        super().__init__()
        self.sets = sets
        self.graders = nn.ModuleList(nn.ModuleList(each.graders.values()) for each in sets)

    def of(self, index: int) -> dict[str, Grader]:
        """The graders of a set by metric name.

        Raises:
            DataError: If there is no such set, for no data module was given.
        """
        if index >= len(self.sets):
            raise DataError("evaluation needs a data module that says how answers are graded (pass datamodule=...)")
        return dict(self.sets[index].graders)

    def update(self, index: int, examples: Sequence[Example], responses: Sequence[str]) -> None:
        """Grade the responses to examples of a set."""
        for grader in self.of(index).values():
            grader.update(responses, [example.reference for example in examples])

    def verdicts(self, index: int, example: Example, response: str) -> dict[str, bool]:
        """What each grader of a set says of a response."""
        return {name: grader.grade(response, example.reference) for name, grader in self.of(index).items()}

    def accuracies(self, new: str, prior: str) -> tuple[dict[str, float], dict[str, float]]:
        """Accuracies since the last call, of each set and on average.

        Args:
            new: Name of the average over new skills, and prefix of their names.
            prior: Prefix of the names of prior skills and of their average, ``<prior>/average``.

        Returns:
            Accuracies of each grader, and the averages of the leading graders.
        """
        each: dict[str, float] = {}
        leading: dict[str, list[float]] = {new: [], f"{prior}/average": []}
        for index, evaluation_set in enumerate(self.sets):
            for name, grader in self.of(index).items():
                accuracy = grader.compute().item()
                grader.reset()
                each[f"{prior if evaluation_set.prior else new}/{name}"] = accuracy
                if name == evaluation_set.name:
                    leading[f"{prior}/average" if evaluation_set.prior else new].append(accuracy)
        return each, {name: sum(values) / len(values) for name, values in leading.items() if values}
