"""What all graders share: a torchmetrics accuracy over (response, reference) pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Grader"]


class Grader(Metric):
    """Share of responses that are correct; a subclass says what correct means by :meth:`grade`."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def grade(self, response: str, reference: Any) -> bool:
        """Whether a response is correct.

        Args:
            response: The model's response as text, without special tokens.
            reference: The example's reference.
        """

    def update(self, responses: Sequence[str], references: Sequence[Any]) -> None:
        """Grade a batch of responses against their references."""
        verdicts = [self.grade(response, reference) for response, reference in zip(responses, references, strict=True)]
        self.correct += sum(verdicts)
        self.total += len(verdicts)

    def compute(self) -> Tensor:
        """The accuracy over everything seen, in [0, 1]."""
        return self.correct / self.total.clamp(min=1)
