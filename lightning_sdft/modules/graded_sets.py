"""Grades answers to the evaluation sets of a data module, or takes the loss of their demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.errors import DataError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.interval import Score, bootstrap
from lightning_sdft.records import Example

__all__ = ["GradedSets"]


class GradedSets(nn.Module):
    """The evaluation sets in the order of their loaders; their graders move between devices with this module."""

    def __init__(self, sets: Sequence[EvaluationSet] = ()) -> None:
        super().__init__()
        self.sets = sets
        self.graders = nn.ModuleList(nn.ModuleList(each.graders.values()) for each in sets)
        self.tokens = nn.ModuleList(MeanMetric() for _ in sets)
        self.losses = nn.ModuleList(MeanMetric() for _ in sets)
        for each in sets:
            for grader in each.graders.values():
                grader.reset()  # counts of an earlier run may be inference tensors, which fit cannot change
            each.check_references()

    def of(self, index: int) -> dict[str, Grader]:
        """The graders of a set by metric name.

        Raises:
            DataError: If there is no such set because no data module was given.
        """
        if index >= len(self.sets):
            raise DataError("evaluation needs a data module that says how answers are graded (pass datamodule=...)")
        return dict(self.sets[index].graders)

    def grades(self, index: int) -> bool:
        """Whether answers to examples of a set are graded; otherwise the loss of the demonstrations is taken."""
        return bool(self.of(index))

    def lose(self, index: int, losses: Tensor) -> None:
        """Count the losses of the tokens of demonstrations of a set, `(N,)`."""
        mean = self.losses[index]
        assert isinstance(mean, MeanMetric)
        mean.update(losses.nan_to_num(nan=float("inf")))  # the metric would leave NaN out

    def update(self, index: int, examples: Sequence[Example], responses: Sequence[str]) -> list[dict[str, bool | None]]:
        """Grade the responses to examples of a set, count the verdicts, and return them as :meth:`verdicts` does."""
        given = self.verdicts(index, examples, responses)
        references = [example.reference for example in examples]
        for name, grader in self.of(index).items():
            grader.take(responses, references, [each[name] for each in given])
        return given

    def count(self, index: int, tokens: Sequence[int]) -> None:
        """Count the tokens of responses to examples of a set."""
        mean = self.tokens[index]
        assert isinstance(mean, MeanMetric)
        mean.update(torch.tensor(tokens, dtype=torch.float))

    def verdicts(
        self, index: int, examples: Sequence[Example], responses: Sequence[str]
    ) -> list[dict[str, bool | None]]:
        """The verdict of each grader of a set on each response."""
        references = [example.reference for example in examples]
        graders = self.of(index)
        if not graders:
            return [{} for _ in examples]
        given = [grader.grade_all(responses, references) for grader in graders.values()]
        return [dict(zip(graders, each, strict=True)) for each in zip(*given, strict=True)]

    def lengths(self, name: str) -> dict[str, float]:
        """Mean response length in tokens since the last call, for each set of new skills, as ``<name>/<set>``."""
        means = {}
        for evaluation_set, tokens in zip(self.sets, self.tokens, strict=True):
            assert isinstance(tokens, MeanMetric)
            if evaluation_set.graders and not evaluation_set.prior:
                means[f"{name}/{evaluation_set.name}"] = float(tokens.compute())
            tokens.reset()
        return means

    def log(self, log: Callable[..., None], stage: str, prior: str) -> None:
        """Log accuracies since the last call, mean answer lengths in tokens, and losses, with the averages of each.

        Accuracies are ``<stage>/accuracy``, lengths ``<stage>/length``, losses ``<stage>/loss`` and ``<prior>_loss``.

        Args:
            log: The ``log`` method of the module.
            stage: Prefix of all names but those of prior skills.
            prior: See :meth:`accuracies`.
        """
        new, loss = f"{stage}/accuracy", f"{stage}/loss"
        each, averages = self.accuracies(new, prior)
        for name, value in (each | self.lengths(f"{stage}/length")).items():
            log(name, value, batch_size=1)
        for name, value in (averages | self.mean_losses(loss, f"{prior}_loss")).items():
            log(name, value, prog_bar=name in (new, f"{prior}/average", loss), batch_size=1)

    def mean_losses(self, new: str, prior: str) -> dict[str, float]:
        """Losses per token of demonstrations since the last call, in nats: of each set without graders, and on average.

        Args:
            new: Name of the average over new skills, and prefix of their names.
            prior: Prefix of the names of prior skills and of their average, ``<prior>/average``.
        """
        each: dict[str, float] = {}
        means: dict[str, list[float]] = {new: [], f"{prior}/average": []}
        for evaluation_set, loss in zip(self.sets, self.losses, strict=True):
            assert isinstance(loss, MeanMetric)
            if not evaluation_set.graders:
                prefix, average = (prior, f"{prior}/average") if evaluation_set.prior else (new, new)
                each[f"{prefix}/{evaluation_set.name}"] = value = float(loss.compute())
                means[average].append(value)
            loss.reset()
        return each | {name: sum(values) / len(values) for name, values in means.items() if values}

    def accuracies(self, new: str, prior: str) -> tuple[dict[str, float], dict[str, float]]:
        """Accuracies since the last call, of each set and on average, with their 95% intervals.

        The interval of ``val/accuracy/science`` is ``val/accuracy_low/science`` and ``val/accuracy_high/science``. If
        responses could not be graded, ``val/accuracy_ungraded/science`` is their number.

        Args:
            new: Name of the average over new skills, and prefix of their names.
            prior: Prefix of the names of prior skills and of their average, ``<prior>/average``.

        Returns:
            The accuracy of each grader, and the averages over the graders that are named like their set.
        """
        each: dict[str, float] = {}
        leading: dict[str, list[Tensor]] = {new: [], prior: []}
        for index, evaluation_set in enumerate(self.sets):
            prefix = prior if evaluation_set.prior else new
            for name, grader in self.of(index).items():
                values, ungraded = _read(grader)
                each |= _named(bootstrap([values]), prefix, f"/{name}")
                if ungraded:
                    each[f"{prefix}_ungraded/{name}"] = ungraded
                if name == evaluation_set.name:
                    leading[prefix].append(values)
        averages = _named(bootstrap(leading[new]), new) if leading[new] else {}
        return each, averages | (_named(bootstrap(leading[prior]), prior, "/average") if leading[prior] else {})


def _read(grader: Grader) -> tuple[Tensor, int]:
    """The verdicts of all processes as ones and zeros, or the scores, `(Q,)`, and the number of ungraded responses."""
    with grader.sync_context():
        values, ungraded = grader.values(), int(grader.ungraded)
    grader.reset()
    return values, ungraded


def _named(score: Score, prefix: str, name: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": score.value, f"{prefix}_low{name}": score.low, f"{prefix}_high{name}": score.high}
