from __future__ import annotations

from typing import Any

from lightning_sdft.grading import AnswerFormat, Feedback, Grader


class Judging(Grader):
    """Grades all answers together, as a judge does."""

    def grade(self, response: str, reference: Any) -> bool | None:
        raise AssertionError("asked one by one")

    def grade_all(self, responses: Any, references: Any) -> list[bool | None]:
        return [True, False, None]


def test_a_grader_that_says_no_more_says_that_an_answer_is_wrong() -> None:
    found = Judging().feedback_all(["a", "b", "c"], [1, 2, 3])
    assert found == [Feedback(True), Feedback(False, "The answer is wrong."), Feedback(None)]


def test_feedback_is_not_counted() -> None:
    grader = AnswerFormat()
    assert grader.feedback_all(["A"], [None])[0].correct is False
    assert grader.graded == 0
