from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_sdft.data.json_rows import JsonDataModule
from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading import Feedback, PythonFunction
from lightning_sdft.trust import trusting

SOURCE = """
from os import system
from pathlib import Path
Path(__file__).with_name("imported").touch()
limit = 7

def is_right(response, reference):
    return None if response == "?" else response == reference

asked = 0

def says_why(response, reference):
    global asked
    asked += 1
    return (None if response == "?" else response == reference), f"it is {response}"

def says_a_number(response, reference):
    return False, 7

def returns_text(response, reference):
    return "yes"

def fails(response, reference):
    return response / reference
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of one's own, and the mark that it leaves when it is imported."""
    (tmp_path / "own_grading.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    sys.modules.pop("own_grading", None)


def test_a_trusted_function_grades(own: Path) -> None:
    with trusting("own_grading"):
        grader = PythonFunction("own_grading.is_right")
    grader.update(["a", "b", "?"], ["a", "a", "a"])
    assert grader.compute().item() == 0.5
    assert grader.ungraded.item() == 1
    assert copy.deepcopy(grader).grade("a", "a") is True
    assert own.exists()


def test_a_function_that_is_not_trusted_is_not_imported(own: Path) -> None:
    for path in ("own_grading.is_right", "os.system"):
        with pytest.raises(SettingError, match=rf"names {path}, .*add --trust {path.split('.')[0]} to the command"):
            PythonFunction(path)
    with trusting("own"), pytest.raises(SettingError, match="add --trust own_grading to the command line"):
        PythonFunction("own_grading.is_right")
    assert not own.exists()


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("is_right", "is no dotted path; give one such as"),
        ("own_grading.is right", "is no dotted path"),
        ("own_grading.is_wrong", "there is no is_wrong in own_grading; correct the name"),
        ("own_grading.limit", "is no function of own_grading"),
        ("own_grading.system", "is no function of own_grading; name one that is defined there"),
        ("own_grading.inner.is_right", "cannot be imported .*; install it, or add its folder to PYTHONPATH"),
    ],
)
def test_what_is_no_function_is_refused(path: str, problem: str) -> None:
    with trusting("own_grading"), pytest.raises(SettingError, match=problem):
        PythonFunction(path)


def test_a_function_that_cannot_grade_is_named() -> None:
    with trusting("own_grading"):
        texts, fails = PythonFunction("own_grading.returns_text"), PythonFunction("own_grading.fails")
    with pytest.raises(DataError, match=r"own_grading\.returns_text returned 'yes'; return True, False or None"):
        texts.grade("a", "b")
    with pytest.raises(DataError, match=r"own_grading\.fails failed with TypeError: .* on the response 'a' to the ref"):
        fails.grade("a", "b")


def test_it_needs_no_references(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt,response\na,b\n")
    with trusting("own_grading"):
        grader = PythonFunction("own_grading.is_right")
    (tested,) = JsonDataModule(test=str(tmp_path / "own.csv"), grader=grader).splits.test
    assert list(tested.graders) == ["json"]


def test_a_function_may_say_why(own: Path) -> None:
    with trusting("own_grading"):
        grader, plain = PythonFunction("own_grading.says_why"), PythonFunction("own_grading.is_right")
    assert grader.grade_all(["a", "b", "?"], ["a", "a", "a"]) == [True, False, None]
    assert grader.feedback_all(["a", "b", "?"], ["a", "a", "a"]) == [
        Feedback(True),
        Feedback(False, "it is b"),
        Feedback(None),
    ]
    assert sys.modules["own_grading"].asked == 6  # once about each answer
    assert grader.feedback("b", "a") == "it is b"
    assert plain.feedback_all(["b"], ["a"]) == [Feedback(False, "The answer is wrong.")]
    with (
        trusting("own_grading"),
        pytest.raises(DataError, match=r"returned \(False, 7\); return True, False or None, or"),
    ):
        PythonFunction("own_grading.says_a_number").grade("a", "a")
