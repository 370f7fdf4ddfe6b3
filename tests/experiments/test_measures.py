"""What is kept of skills learned one after another, on matrices worked out by hand."""

from __future__ import annotations

import pytest

from lightning_sdft.experiments.measures import SkillRetention


def test_three_skills() -> None:
    matrix = [
        [0.1, 0.2, 0.3],  # base
        [0.9, 0.4, 0.1],  # behind the first skill
        [1.0, 0.8, 0.6],
        [0.5, 0.7, 0.9],
    ]
    found = SkillRetention.of(matrix)
    assert found.average_accuracy == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert found.forgetting == pytest.approx(((1.0 - 0.5) + (0.8 - 0.7)) / 2)  # of the best, which came later
    assert found.backward_transfer == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.4 - 0.2) + (0.6 - 0.3)) / 2)


def test_skill_that_got_better_is_negative_forgetting() -> None:
    found = SkillRetention.of([[1.0, 0.0], [0.5, 0.0], [0.75, 1.0]])  # what the base model knew does not count
    assert (found.forgetting, found.backward_transfer, found.forward_transfer) == (-0.25, 0.25, 0.0)


def test_one_skill_has_nothing_to_transfer_to() -> None:
    assert SkillRetention.of([[0.25], [0.75]]) == SkillRetention(0.75, None, None, None)


@pytest.mark.parametrize("matrix", [[], [[]], [[0.5]], [[0.5], [0.5, 0.5]], [[0.5, 0.5]] * 2, [[0.5], [0.5], [0.5]]])
def test_other_shapes_are_refused(matrix: list[list[float]]) -> None:
    rows = [len(row) for row in matrix]
    with pytest.raises(ValueError, match=r"S \+ 1 rows of S") as error:
        SkillRetention.of(matrix)
    assert str(rows) in str(error.value)
