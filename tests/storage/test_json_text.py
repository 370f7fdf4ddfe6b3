from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from lightning_sdft.storage.json_text import json_line

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, {"a": [1, 2.5, None, True, "ü"]}),
        (Decimal("42.00"), 42),
        (Decimal("0.10"), 0.1),
        (Decimal("0.12345678901234567890"), "0.12345678901234567890"),
        (Decimal("1e999999"), "1E+999999"),
        (date(2024, 5, 1), "2024-05-01"),
        (datetime(2024, 5, 1, 9, 30), "2024-05-01T09:30:00"),
        (time(9, 30), "09:30:00"),
        (np.int64(3), 3),
        (np.array([[1, 2]]), [[1, 2]]),
        (torch.tensor([0.5]), [0.5]),
        ({3}, [3]),
        (b"\xc3\xbc\xff", "ü\\xff"),
        (3 + 4j, "(3+4j)"),
        ({date(2024, 5, 1): {(1, 2): 3}}, {"2024-05-01": {"(1, 2)": 3}}),
        ("\ud800", "\ud800"),
        (CIRCLE, "[[...]]"),
    ],
)
def test_whatever_a_reference_is_its_record_is_written(value: Any, read: Any) -> None:
    line = json_line({"reference": value, "response": "ü"})
    line.encode()
    assert line.count("\n") == 1
    assert json.loads(line) == {"reference": read, "response": "ü"}


def test_even_what_python_cannot_print_loses_no_response() -> None:
    for value in (10**5000, {"a": 10**5000}):
        assert json.loads(json_line({"reference": value, "response": "yes"}))["response"] == "yes"
