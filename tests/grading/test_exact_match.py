import pytest

from lightning_sdft.grading.exact_match import ExactMatch


@pytest.mark.parametrize(
    ("response", "reference", "verdict"),
    [
        ("Paris", "Paris", True),
        ("\n Paris \n", "Paris", True),
        ("Paris", " Paris\n", True),
        ("paris", "Paris", False),
        ("It is Paris", "Paris", False),
        ("Paris Paris", "Paris", False),
        ("New  York", "New York", False),
        ("", "Paris", False),
        ("42", 42, True),
        ("4", 42, False),
    ],
)
def test_whole_response_must_equal_the_reference(response, reference, verdict):
    assert ExactMatch().grade(response, reference) is verdict


def test_accuracy_over_batches():
    grader = ExactMatch()
    grader.update(["a", "b"], ["a", "a"])
    grader.update(["a", "a"], ["a", "a"])
    assert grader.compute() == 0.75
    grader.reset()
    grader.update(["b"], ["a"])
    assert grader.compute() == 0


def test_every_response_needs_a_reference():
    with pytest.raises(ValueError, match="shorter"):
        ExactMatch().update(["a", "b"], ["a"])
