"""What a data module loads: examples to train on, and sets of examples to evaluate."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning.pytorch import LightningDataModule

from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.progress.texts import count_text
from lightning_sdft.records import Example

__all__ = ["EvaluationSet", "SplitSource", "Splits"]


@dataclass(frozen=True)
class EvaluationSet:
    """Examples that are evaluated together: their answers are graded, or how likely their demonstrations are.

    Args:
        examples: The examples; each has a reference, or a demonstration if there are no graders.
        graders: A dictionary from metric name to grader. Several graders may grade the same answers; the first one
            gives the set its name. Without any, the loss of the demonstrations is evaluated.
        prior: Whether the base model had this skill before training, so that a drop in accuracy means forgetting.
        title: Name of a set without graders.
    """

    examples: Sequence[Example]
    graders: Mapping[str, Grader]
    prior: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """Name of the set, which is the name of its first metric."""
        return next(iter(self.graders), self.title)

    def check_references(self) -> None:
        """Refuse a reference that a grader cannot compare responses with.

        Raises:
            DataError: If there is one; the message names the example.
        """
        for example in self.examples:
            for name, grader in self.graders.items():
                try:
                    grader.check_reference(example.reference)
                except DataError as error:
                    raise DataError(f"example {example.id!r} cannot be graded by {name}: {error}") from error


@dataclass(frozen=True)
class Splits:
    """The training examples and evaluation sets that a data module loads.

    Args:
        train: Examples to train on.
        validation: Sets evaluated during training.
        test: Sets evaluated by ``test`` and ``predict``.
    """

    train: Sequence[Example] = ()
    validation: Sequence[EvaluationSet] = field(default_factory=tuple)
    test: Sequence[EvaluationSet] = field(default_factory=tuple)

    def check(self) -> None:
        """Refuse ids that occur twice in a set, and evaluation sets without examples.

        Raises:
            DataError: If there is such a set.
        """
        _check_ids("train", self.train)
        for kind, sets in (("validation", self.validation), ("test", self.test)):
            for each in sets:
                _check_ids(f"{kind} ({each.name})", each.examples)
                if not each.examples:
                    raise DataError(f"the {kind} split ({each.name}) has no examples")


class SplitSource(LightningDataModule):
    """A data module that has splits."""

    setting = "data"
    """The setting that gave this data module, for errors; whoever else reads one sets another name."""

    @property
    @abstractmethod
    def splits(self) -> Splits:
        """The splits."""


def _check_ids(split: str, examples: Sequence[Example]) -> None:
    counts = Counter(example.id for example in examples)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"the {split} split has {count_text(len(repeated), 'id')} more than once, among them {repeated[0]!r} "
            f"({counts[repeated[0]]} times); ids must be unique"
        )
