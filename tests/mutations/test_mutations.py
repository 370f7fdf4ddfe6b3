from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutations.__main__ import report
from tests.mutations.study import Results, confirm, judged, read_sources, study
from tests.mutations.table import PACKAGE, Mutation, find, mutated, read_table

ROOT = Path(__file__).parents[2]

CODE = """\
def larger(one, other):
    if one > other:
        return one
    return other
"""
TESTS = f"""\
from {PACKAGE}.code import larger

def test_larger():
    assert larger(2, 1) == 2

def test_always_fails():
    assert larger(1, 2) == 1
"""


def mutation(old: str, new: str, fault: str = "a fault", tests: str = "test_code::test_larger") -> Mutation:
    return Mutation("code", fault, old, new, tests)


def test_every_mutation_is_in_one_place_and_is_another_program() -> None:
    sources, table = read_sources(ROOT), read_table()
    for each in table:
        place = find(each, sources)
        changed = mutated(each, sources[place.file], place)
        assert changed != sources[place.file], each
        compile(changed, str(place.file), "exec")
        assert all((ROOT / argument.partition("::")[0]).is_file() for argument in each.arguments), each
    assert len({each.fault for each in table}) == len(table) >= 80
    assert min(Counter(each.room for each in table).values()) >= 3


def test_old_lines_elsewhere_or_nowhere_are_an_error_that_says_where() -> None:
    sources = {Path("a.py"): "x = 1\ny = 2\n", Path("b.py"): "if z:\n    x = 1\n"}
    with pytest.raises(LookupError, match=r"a fault: .* a\.py:1, b\.py:2"):
        find(mutation("x = 1", "x = 2"), sources)
    with pytest.raises(LookupError, match="nowhere"):
        find(mutation("x = 3", "x = 2"), sources)


def test_new_lines_are_indented_as_the_old_ones() -> None:
    source = "if z:\n    x = 1\n    y = 2\nw = 3\n"
    several = mutation("\nx = 1\ny = 2\n", "\nfor x in z:\n    y = x\n")
    place = find(several, {Path("a.py"): source})
    assert mutated(several, source, place) == "if z:\n    for x in z:\n        y = x\nw = 3\n"


def test_a_study_tells_what_is_caught_from_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tree = tmp_path / "tree"
    (tree / PACKAGE).mkdir(parents=True)
    (tree / PACKAGE / "__init__.py").touch()
    (tree / PACKAGE / "code.py").write_text(CODE)
    (tree / "test_code.py").write_text(TESTS)
    caught = mutation("if one > other:", "if one < other:", "caught")
    survivor = mutation("if one > other:", "if one >= other:", "survivor")
    hollow = mutation("return other", "return other + 1", "hollow", "test_code::test_always_fails")
    results = Results(tmp_path / "results.json")
    results.keep(hollow, verdict="caught", by="test_code.py::test_always_fails", confirmed=False)

    study([caught, survivor], [tree], results, timeout=60)
    confirm([caught, survivor, hollow], tree, results, timeout=60)

    again = Results(tmp_path / "results.json")
    assert [again.records[name]["verdict"] for name in ("caught", "survivor", "hollow")] == [
        "caught",
        "survived",
        "error",
    ]
    assert again.records["caught"]["by"] == "test_code.py::test_larger"
    assert again.records["caught"]["confirmed"]
    assert "without the mutation" in again.records["hollow"]["said"]
    assert (tree / PACKAGE / "code.py").read_text() == CODE
    assert "- survived: code: survivor" in report([caught, survivor], again)
    assert again.of(caught._replace(new="if one == other:")) is None


@pytest.mark.parametrize(
    ("code", "printed", "verdict"),
    [
        (0, "1 passed", "survived"),
        (1, "FAILED tests/test_a.py::test_b[x, y] - assert 1 == 2\n1 failed", "caught"),
        (1, "ERROR tests/test_a.py::test_b - ValueError\n1 error", "caught"),
        (1, "___ ERROR collecting tests/test_a.py ___\nERROR tests/test_a.py\n1 error", "broken"),
        (1, "E   NameError: name 'x' is not defined\nFAILED tests/test_a.py::test_b - NameError", "broken"),
        (4, "ImportError while loading conftest '/tests/conftest.py'.", "broken"),
        (5, "no tests ran", "error"),
        (None, "took more than 300 s", "error"),
    ],
)
def test_only_a_test_that_ran_catches_anything(code: int | None, printed: str, verdict: str) -> None:
    assert judged(code, printed)["verdict"] == verdict
