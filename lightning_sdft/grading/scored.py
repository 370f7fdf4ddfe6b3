"""What graders share that say how good an answer is, and not only whether it is right."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sdft.grading.base import Grader
from lightning_sdft.settings import Share, check_ranges

__all__ = ["Scored"]


class Scored(Grader):
    """Mean score of responses, in [0, 1]; a subclass implements :meth:`score`.

    The mean score stands where the accuracy of other graders stands. Where an answer can only be right or wrong
    (pass@k, SDPO, the pre-flight check, tables of answers), it is right from ``at_least`` on. The tests of
    ``evidence.md`` count right answers, so they leave sets with scores out.

    Args:
        at_least: Lowest score of a right answer.
    """

    has_scores = True

    scores: list[Tensor] | Tensor

    def __init__(self, at_least: Share = 0.5) -> None:
        check_ranges(Scored, locals())
        super().__init__()
        self.at_least = at_least
        self.add_state("scores", [], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, response: str, reference: Any) -> float | None:
        """How good a response is, in [0, 1]; ``None`` if it could not be graded.

        Args:
            response: See :meth:`Grader.grade`.
            reference: See :meth:`Grader.grade`.
        """

    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether the score of a response is high enough."""
        score = self.score(response, reference)
        return None if score is None else score >= self.at_least

    def feedback(self, response: str, reference: Any) -> str:
        """The score, and the one that was needed."""
        return f"The answer scores {self.score(response, reference):.2f}, and {self.at_least:g} was needed."

    def take(self, responses: Sequence[str], references: Sequence[Any], verdicts: Sequence[bool | None]) -> None:
        """Add the scores of graded responses."""
        self.count(verdicts)
        scores = [self.score(response, reference) for response, reference in zip(responses, references, strict=True)]
        given = [score for score in scores if score is not None]
        # float32, whatever the default type is while a model in bfloat16 answers
        self.scores.append(torch.tensor(given, dtype=torch.float32, device=self.device))  # type: ignore[union-attr]

    def values(self) -> Tensor:
        """The scores of all graded responses, `(Q,)`."""
        kept = [self.scores] if isinstance(self.scores, Tensor) else self.scores  # gathered, or of this process
        return torch.cat([torch.empty(0, device=self.device), *kept]).double()

    def compute(self) -> Tensor:
        """The mean score of all graded responses; NaN if there are none."""
        return self.values().mean()
