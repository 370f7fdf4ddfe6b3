"""What all graders share: a torchmetrics accuracy over (response, reference) pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Feedback", "Grader"]


@dataclass(frozen=True)
class Feedback:
    """What whoever wrote a response may be told about it.

    Args:
        correct: The verdict; ``None`` if the response could not be graded.
        message: What is wrong with it; empty unless it is wrong.
    """

    correct: bool | None
    message: str = ""


class Grader(Metric):
    """Share of responses that are correct; a subclass implements :meth:`grade`, which decides what is correct.

    A response that could not be graded, for example because a judge did not reply, counts neither as correct nor as
    wrong.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    needs_reference = True
    """Whether responses are compared with a reference."""

    asks_a_model = False
    """Whether another model is asked for each verdict, which takes time or money."""

    has_scores = False
    """Whether responses have scores, whose mean is reported; then verdicts only say which scores are high enough."""

    needs_question = False
    """Whether references are ``{"question": text, "answer": ...}``; a data module then adds the question."""

    correct: Tensor
    graded: Tensor
    ungraded: Tensor

    def __init__(self) -> None:
        super().__init__()
        for count in ("correct", "graded", "ungraded"):
            self.add_state(count, torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def grade(self, response: str, reference: Any) -> bool | None:
        """Whether a response is correct; ``None`` if it could not be graded.

        Args:
            response: The model's response as text, without special tokens.
            reference: The example's reference.
        """

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference that responses cannot be compared with, before any are generated.

        Raises:
            DataError: If it is such a reference.
        """

    def grade_all(self, responses: Sequence[str], references: Sequence[Any]) -> list[bool | None]:
        """Grade many responses; a grader that asks a judge overrides this to ask concurrently."""
        return [self.grade(response, reference) for response, reference in zip(responses, references, strict=True)]

    def feedback(self, response: str, reference: Any) -> str:
        """What is wrong with a response that was found wrong, without giving away the reference.

        A grader that can say why overrides this.
        """
        return "The answer is wrong."

    def feedback_all(self, responses: Sequence[str], references: Sequence[Any]) -> list[Feedback]:
        """Grade many responses, and say of each wrong one what is wrong."""
        return [
            Feedback(verdict, self.feedback(response, reference) if verdict is False else "")
            for response, reference, verdict in zip(
                responses, references, self.grade_all(responses, references), strict=True
            )
        ]

    def update(self, responses: Sequence[str], references: Sequence[Any]) -> None:
        """Grade a batch of responses against their references."""
        self.take(responses, references, self.grade_all(responses, references))

    def take(self, responses: Sequence[str], references: Sequence[Any], verdicts: Sequence[bool | None]) -> None:
        """Count a batch of responses whose verdicts are known; a grader with scores overrides this to keep them."""
        self.count(verdicts)

    def count(self, verdicts: Sequence[bool | None]) -> None:
        """Add verdicts to the counts."""
        given = [verdict for verdict in verdicts if verdict is not None]
        self.correct += sum(given)
        self.graded += len(given)
        self.ungraded += len(verdicts) - len(given)

    def values(self) -> Tensor:
        """What the accuracy is the mean of, `(Q,)`: a one or a zero of each graded response, in any order."""
        return (torch.arange(int(self.graded)) < int(self.correct)).double()

    def compute(self) -> Tensor:
        """The accuracy over all graded responses, in [0, 1]; NaN if there are none."""
        return self.correct / self.graded
