from __future__ import annotations

from typing import Any

import pytest

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading import Pattern


@pytest.mark.parametrize(
    ("find", "response", "reference", "right"),
    [
        (r"#### (.+)", "6 * 7 = 42\n#### 42", 42, True),
        (r"#### (.+)", "#### 41\n#### 42", 42, True),
        (r"#### (.+)", "#### 42\n#### 41", 42, False),
        (r"#### (.+)", "42", 42, False),
        (r"\d+", "6 * 7 = 42", "42", True),
        (r"in (\d+)|(\d+) AD", "800 AD", 800, True),
        (r"is (\w+)", "it is Oslo", ["Paris", "Oslo"], True),
        ("", "in the year 1848.", r"\b18\d\d\b", True),
        ("", "in the year 1948.", r"\b18\d\d\b", False),
        ("", "OSLO", "(?i)oslo", True),
        ("", "Oslo", ["Paris", "^Os"], True),
    ],
)
def test_what_is_found_is_compared(find: str, response: str, reference: Any, right: bool) -> None:
    assert Pattern(find).grade(response, reference) is right


def test_what_is_found_in_references_is_compared() -> None:
    grader = Pattern(r"^(?:Answer: )?([A-Z])\b", in_reference=True)
    assert grader.grade("A, since it is longer.", "Answer: A\nBecause B is shorter.")
    assert not grader.grade("B\nBecause A", ["A\nBecause it is so.", "Answer: C"])
    grader.check_reference("A")
    with pytest.raises(DataError, match="finds nothing in reference 'because'; correct it"):
        grader.check_reference("because")
    with pytest.raises(SettingError, match=r"in_reference=true needs data\.grader\.find"):
        Pattern(in_reference=True)


def test_what_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(SettingError, match=r"data.grader.find='\(' is not a regular expression \(missing \)"):
        Pattern("(")
    with pytest.raises(DataError, match=r"reference '\(' is not a regular expression .*; correct it, or give"):
        Pattern().check_reference(["ok", "("])
    with pytest.raises(DataError, match=r"reference 42 is not a regular expression \(it is int\)"):
        Pattern().check_reference(42)
    Pattern(r"(\d+)").check_reference(42)
