"""What a model that learns one skill after another keeps: numbers of the accuracy matrix.

Row 0 of the matrix has the accuracies of the base model, row i those behind the i-th stage; column j is the j-th skill,
which is learned in stage j + 1.

[1] Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, 2017, https://arxiv.org/abs/1706.08840
[2] Chaudhry et al., Riemannian Walk for Incremental Learning, 2018, https://arxiv.org/abs/1801.10112
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

__all__ = ["Retention"]


@dataclass(frozen=True)
class Retention:
    """What is left at the end, and what was lost on the way.

    Args:
        average_accuracy: Mean over skills at the end.
        forgetting: Mean over all skills but the last of their best accuracy since they were learned, until the last
            stage, minus that at the end [2]; ``None`` for one skill.
        backward_transfer: Mean over all skills but the last of the accuracy at the end minus that right after they were
            learned [1]; negative where skills are forgotten.
        forward_transfer: Mean over all skills but the first of the accuracy right before they are learned minus that of
            the base model [1].
    """

    average_accuracy: float
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None

    @classmethod
    def of(cls, matrix: Sequence[Sequence[float]]) -> Retention:
        """The numbers of an accuracy matrix, `(S + 1, S)`.

        Raises:
            ValueError: If the matrix has another shape.

        Example:
            >>> Retention.of([[0.5, 0.25], [1.0, 0.5], [0.75, 1.0]])
            Retention(average_accuracy=0.875, forgetting=0.25, backward_transfer=-0.25, forward_transfer=0.25)
        """
        skills = len(matrix) - 1
        if skills < 1 or any(len(row) != skills for row in matrix):
            raise ValueError(
                f"an accuracy matrix of S skills has S + 1 rows of S; this has rows of {[*map(len, matrix)]}"
            )
        base, end = matrix[0], matrix[-1]
        if skills == 1:
            return cls(end[0], None, None, None)
        earlier = range(skills - 1)
        return cls(
            average_accuracy=mean(end),
            forgetting=mean(max(row[skill] for row in matrix[skill + 1 : -1]) - end[skill] for skill in earlier),
            backward_transfer=mean(end[skill] - matrix[skill + 1][skill] for skill in earlier),
            forward_transfer=mean(matrix[skill][skill] - base[skill] for skill in range(1, skills)),
        )
