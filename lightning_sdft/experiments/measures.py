"""Measures what a model keeps that learns one skill after another, from the matrix of its accuracies.

Row 0 of the matrix has the accuracies of the base model, row i those after stage i; column j is the skill that is
learned in stage j + 1.

[1] Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, 2017, https://arxiv.org/abs/1706.08840
[2] Chaudhry et al., Riemannian Walk for Incremental Learning, 2018, https://arxiv.org/abs/1801.10112
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

__all__ = ["SkillRetention"]


@dataclass(frozen=True)
class SkillRetention:
    """What is left at the end, and what was lost on the way.

    Args:
        average_accuracy: Mean accuracy over skills at the end.
        forgetting: The best accuracy of a skill, from when it was learned until before the last stage, minus its
            accuracy at the end; mean over all skills but the last [2]. ``None`` for one skill.
        backward_transfer: The accuracy of a skill at the end minus that right after it was learned; mean over all
            skills but the last [1]. Negative if skills are forgotten.
        forward_transfer: The accuracy of a skill right before it is learned minus that of the base model; mean over all
            skills but the first [1].
    """

    average_accuracy: float
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None

    @classmethod
    def of(cls, matrix: Sequence[Sequence[float]]) -> SkillRetention:
        """The measures of an accuracy matrix, `(S + 1, S)`.

        Raises:
            ValueError: If the matrix has another shape.

        Example:
            >>> SkillRetention.of([[0.5, 0.25], [1.0, 0.5], [0.75, 1.0]])
            SkillRetention(average_accuracy=0.875, forgetting=0.25, backward_transfer=-0.25, forward_transfer=0.25)
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
