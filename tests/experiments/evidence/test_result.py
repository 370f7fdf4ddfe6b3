"""What is read of a run: measures, verdicts, and the way to the weights that were evaluated."""

from __future__ import annotations

from lightning_sdft.experiments.evidence.result import Point, Result, benchmarks
from lightning_sdft.experiments.runs.details import Details

CURVES = {
    "val/accuracy": {2: 0.5, 4: 0.75, 6: 0.75, 8: 0.25},
    "prior/copy": {2: 1.0, 4: 0.5, 6: 0.25, 8: 0.0},
    "prior/average": {2: 1.0, 4: 0.5, 6: 0.25, 8: 0.0},
    "teacher/accuracy": {8: 0.5, 2: 0.9},
}


def read(details: Details, validation: float | None = None, **metrics: float) -> Result:
    found = {"test/accuracy": 0.5, "test/accuracy_low": 0.4, "test/prior/copy": 0.5, "test/prior/average": 0.5}
    return Result.of("double", "SFT", 0, {**found, **metrics}, details, validation)


def test_the_way_ends_at_the_first_validation_that_was_as_good_as_the_evaluated_weights() -> None:
    assert read(Details({}, CURVES), 0.75).way == [
        Point(0.5, {"copy": 1.0, "prior": 1.0}),
        Point(0.75, {"copy": 0.5, "prior": 0.5}),
    ]
    assert len(read(Details({}, CURVES), 0.25).way) == 4


def test_without_validated_prior_tasks_there_is_no_way() -> None:
    assert read(Details({}, {"val/accuracy": {2: 0.5}}), 0.5).way == []


def test_the_teachers_accuracy_is_that_before_training() -> None:
    assert read(Details({}, CURVES)).teacher == 0.9
    assert read(Details()).teacher is None


def test_a_mean_has_verdicts_only_if_all_that_it_is_over_have() -> None:
    asked = {"test/accuracy/double": {"a": True}, "test/prior/copy": {"b": False}}
    whole = read(Details(asked))
    assert whole.verdicts == {
        "new_task": {"double": {"a": True}},
        "copy": {"copy": {"b": False}},
        "prior": {"copy": {"b": False}},
    }
    more = read(Details(asked), **{"test/prior/mmlu": 0.5})
    assert set(more.verdicts) == {"new_task", "copy"}


def test_several_new_sets_are_measures_too() -> None:
    asked = {"test/accuracy/double": {"a": True}, "test/accuracy/swap": {"a": False}}
    found = read(Details(asked), **{"test/accuracy/double": 1.0, "test/accuracy/swap": 0.0})
    assert set(found.accuracies) == {"new_task", "double", "swap", "copy", "prior"}
    assert found.verdicts["new_task"] == {"double": {"a": True}, "swap": {"a": False}}
    assert benchmarks([found]) == ["double", "swap", "copy"]
