from datetime import date, datetime, time
from decimal import Decimal

import numpy as np
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
        # numbers by value, text as text
        ("42", 42.0, True),
        ("42.0", 42, True),
        ("-4.2e1", Decimal("-42.00"), True),
        ("0.1", 0.1, True),
        ("0.10000000000000001", 0.1, False),
        ("42", float("nan"), False),
        ("4_2", 42, False),
        ("٤٢", 42, False),
        ("42.0", "42", False),
        ("42", np.int64(42), True),
        # alternatives
        ("Paris", ["Paris"], True),
        ("42", ["forty-two", 42.0, None], True),
        ("['Paris']", ["Paris"], False),
        ("London", ["Paris", ["Lutetia"]], False),
        ("None", None, False),
        ("[]", [], False),
        # words, dates, objects
        ("TRUE", True, True),
        ("1", True, False),
        ("true", 1, False),
        ("2024-05-01", date(2024, 5, 1), True),
        ("2024-05-02", date(2024, 5, 1), False),
        ("soon", date(2024, 5, 1), False),
        ("2024-05-01 00:00", datetime(2024, 5, 1), True),
        ("09:30", time(9, 30), True),
        ('{"b": [1.0], "a": 2}', {"a": 2.0, "b": [1]}, True),
        ('{"a": true}', {"a": 1}, False),
        ("{" * 100_000, {"a": 1}, False),
        # one text, written in two ways; other texts that look alike
        ("cafe\u0301", "caf\u00e9", True),
        ("caf\u00e9", b"cafe\xcc\x81", True),
        ("\u212b", "\u00c5", True),
        ("10\u00a0000", "10 000", False),
        ("\uff21", "A", False),
        ("m\u00b2", "m2", False),
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
