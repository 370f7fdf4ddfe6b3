"""What may be said of a difference, and what not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_sdft.experiments.evidence.contrast import Contrast, contrast, corrected
from lightning_sdft.experiments.evidence.result import Result


def results(method: str, right: list[int], questions: int = 100) -> list[Result]:
    """A result for each seed, with the first questions right."""
    return [
        Result(
            "double",
            method,
            seed,
            {"new_task": count / questions},
            {"new_task": {"double": {str(place): place < count for place in range(questions)}}},
        )
        for seed, count in enumerate(right)
    ]


def compared(mine: list[int], theirs: list[int]) -> Contrast:
    found = contrast({"double": results("SDFT", mine)}, {"double": results("SFT", theirs)}, "new_task")
    assert found is not None
    return found


def test_a_clear_difference_is_said_in_either_direction() -> None:
    assert compared([90, 91, 92, 90, 89], [60, 61, 60, 63, 62]).words == "better"
    assert compared([60, 61, 60, 63, 62], [90, 91, 92, 90, 89]).words == "worse"


@pytest.mark.parametrize(
    ("mine", "theirs", "why"),
    [
        ([90, 91, 90, 93, 61], [60, 61, 60, 63, 62], "one seed says the opposite"),
        ([62, 61, 60, 63, 61], [60, 60, 60, 60, 60], "too few questions differ"),
        ([99, 62, 61], [60, 60, 60], "seeds differ too much"),
        ([99], [60], "there is one seed"),
    ],
)
def test_nothing_is_said_where(mine: list[int], theirs: list[int], why: str) -> None:
    seeds = f"{len(mine)} seed{'s' * (len(mine) > 1)}"
    assert compared(mine, theirs).words == f"not distinguishable with {seeds}", why


def test_what_is_said_depends_on_how_many_tests_there_are() -> None:
    found = replace(compared([70, 71, 72], [60, 61, 62]), p=0.03, corrected=0.03)
    assert found.words == "better"
    one, *others = corrected([found, *[replace(found, p=0.9)] * 4])
    assert one.corrected == pytest.approx(0.15)
    assert one.words == "not distinguishable with 3 seeds"
    assert all(each.corrected == 1.0 for each in others)


def test_only_seeds_that_both_have_are_compared() -> None:
    found = contrast({"double": results("SDFT", [90, 91])}, {"double": results("SFT", [60])}, "new_task")
    assert found is not None
    assert [each.seed for each in found.seeds] == [0]
    assert (found.accuracy, found.other) == (0.9, 0.6)
    assert contrast({"double": results("SDFT", [90])}, {"double": []}, "new_task") is None


def test_other_questions_under_the_same_measure_are_not_tested() -> None:
    others = [replace(each, verdicts={"new_task": {"other": {"0": True}}}) for each in results("SFT", [60])]
    found = contrast({"double": results("SDFT", [90])}, {"double": others}, "new_task")
    assert found is not None
    assert (found.p, found.words) == (None, "no verdicts, no test")


def test_nothing_is_said_where_most_questions_say_the_opposite_of_the_mean_over_sets() -> None:
    """A large set on which the other one is a little better, and a small one on which it is much worse."""

    def result(method: str, large: int, small: int, seed: int) -> Result:
        verdicts = {
            "large": {str(place): place < large for place in range(1000)},
            "small": {str(place): place < small for place in range(20)},
        }
        return Result("double", method, seed, {"prior": (large / 1000 + small / 20) / 2}, {"prior": verdicts})

    mine = [result("SDFT", 800, 18 + seed % 2, seed) for seed in range(4)]
    theirs = [result("SFT", 900, 6 - seed % 2, seed) for seed in range(4)]
    found = contrast({"double": mine}, {"double": theirs}, "prior")
    assert found is not None
    assert found.difference > 0.2
    assert found.p is not None
    assert found.p < 1e-6
    assert found.words == "not distinguishable with 4 seeds"
