from __future__ import annotations

import math

import pytest

from lightning_sdft.callbacks.wear import SIGNS, below_best, worn

HEALTHY = {
    "student/in_context": 1.0,
    "student/in_context_stressed": 1.0,
    "teacher/accuracy": 1.0,
    "student/alone": 1.0,
    "rollout/cut": 0.0,
    "rollout/empty": 0.0,
    "rollout/repetition": 0.5,
}


def measures(*changes: dict[str, float], count: int = 64) -> list[dict[str, float]]:
    """One measure every 10 steps, each with its changes."""
    asked = {"questions": count, "sampled": count}
    return [{"step": 10.0 * index, **asked, **HEALTHY, **change} for index, change in enumerate(changes)]


def found(*changes: dict[str, float], follows: bool = True, count: int = 64, tolerance: float = 0.0) -> list[str]:
    return list(worn(measures(*changes, count=count), follows, tolerance))


def test_nothing_is_worn_at_first_or_while_all_stays() -> None:
    assert found({}) == []
    assert found({}, {}, {}) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"student/in_context": 0.8}, "student/in_context"),
        ({"student/in_context_stressed": 0.8}, "student/in_context_stressed"),
        ({"teacher/accuracy": 0.8}, "teacher/accuracy"),
        ({"student/alone": 0.8}, "student/alone"),
        ({"rollout/cut": 0.2}, "rollout/cut"),
        ({"rollout/empty": 0.2}, "rollout/empty"),
        ({"rollout/repetition": 2.5}, "rollout/repetition"),
    ],
)
def test_each_sign_is_found_and_said_with_both_values_and_steps(change: dict[str, float], name: str) -> None:
    history = measures({}, {}, change)
    texts = worn(history, True, 0.0)
    assert list(texts) == [name]
    assert f"{name} is {change[name]:.2f} at step 20, after {HEALTHY[name]:.2f} at step 0" in texts[name]


def test_the_students_loss_matters_only_to_a_teacher_that_follows_it() -> None:
    assert found({}, {"student/in_context": 0.5, "student/in_context_stressed": 0.5}, follows=False) == []
    assert found({}, {"teacher/accuracy": 0.5}, follows=False) == ["teacher/accuracy"]


def test_a_student_that_is_ruined_is_found_though_its_teacher_stands_still() -> None:
    """As the laptop model at a learning rate of 0.01, whose teacher still answers everything right."""
    ruined = {"student/in_context": 0.02, "student/in_context_stressed": 0.0, "student/alone": 0.03, "sampled": 32.0}
    assert found({"student/alone": 0.41, "sampled": 32.0}, ruined, follows=False) == ["student/alone"]
    learning = [{"student/alone": value, "sampled": 32.0} for value in (0.41, 0.81, 0.97, 0.94, 1.0, 0.97)]
    assert found(*learning, follows=False) == []


def test_two_standard_errors_are_left_to_chance() -> None:
    """Of 100 answers, 50 and then 40 right may be chance (the error of the difference is .07); 50 and 30 may not."""
    before = {"teacher/accuracy": 0.5}
    assert found(before, {"teacher/accuracy": 0.4}, count=100) == []
    assert found(before, {"teacher/accuracy": 0.3}, count=100) == ["teacher/accuracy"]
    error = math.sqrt((51 * 51 + 31 * 71) / 102**3)  # with one right and one wrong answer more
    beyond = 20 / 102 - 2 * error
    assert found(before, {"teacher/accuracy": 0.3}, count=100, tolerance=beyond + 0.001) == []
    assert found(before, {"teacher/accuracy": 0.3}, count=100, tolerance=beyond - 0.001) != []


def test_one_answer_of_two_says_nothing_and_six_of_128_do() -> None:
    assert found({}, {"teacher/accuracy": 0.0}, count=2) == []
    assert found({}, {"teacher/accuracy": 123 / 128}, count=128) == []
    assert found({}, {"teacher/accuracy": 122 / 128}, count=128) == ["teacher/accuracy"]


def test_the_best_measure_before_counts_not_the_last() -> None:
    slowly = [{"teacher/accuracy": 1.0 - 0.04 * index} for index in range(6)]
    assert found(*slowly) == ["teacher/accuracy"]
    assert found(*slowly[-2:]) == []


def test_of_sampled_answers_there_are_fewer() -> None:
    few = {"sampled": 16.0, "rollout/cut": 0.2}
    assert found({}, few) == []
    assert found({}, {**few, "sampled": 64.0}) == ["rollout/cut"]


def test_what_could_not_be_measured_is_not_worn() -> None:
    nothing = dict.fromkeys((sign.metric for sign in SIGNS), math.nan)
    assert found(nothing, {}) == []
    assert found({}, nothing) == []


def test_a_metric_is_below_its_best_if_its_last_value_is_lower_than_one_before() -> None:
    history = measures({}, {"teacher/accuracy": 0.9}, {"rollout/cut": 0.5})
    assert not below_best(history, "teacher/accuracy")
    assert below_best(history[:2], "teacher/accuracy")
    assert below_best([*history[:2], {"step": 30.0}], "teacher/accuracy")  # not measured there
    assert not below_best([], "teacher/accuracy")
