"""What a comparison refuses: mistakes, and code that nobody has said to trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.laptop_runs import callback, command, outcomes, part, results, write


def small(tmp_path: Path, *parts: dict[str, Any], **changes: Any) -> Path:
    """The config of a comparison with one method, of one step."""
    given = {"domains": ["double"], "learning_rates": [1.0e-4], "seeds": [0], "jobs": 2}
    sft = part(max_steps=1, val_check_interval=1)
    return write(tmp_path / "compare.yaml", {**given, "methods": {"SFT": {"parts": [sft, *parts]}}, **changes})


def test_class_of_ones_own_is_refused_by_the_run_until_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, which the run reads; then the same command with ``--trust`` goes on, and repeats nothing."""
    plain = part(max_steps=1, val_check_interval=1)
    own = write(tmp_path / "own.yaml", callback("Beginning"))
    methods = {name: {"parts": parts} for name, parts in (("SFT", [plain]), ("own", [plain, str(own)]))}
    file = small(tmp_path, methods=methods)
    command(monkeypatch, "compare", "--config", file, "--out", tmp_path / "out")
    before = outcomes(tmp_path / "out")
    assert len(before) == 2
    error = results(tmp_path / "out")[2]["error"]
    assert "trainer.callbacks names tests.experiments.laptop_runs.Beginning, and importing it would run its" in error
    assert "add --trust tests to the command line" in error
    command(monkeypatch, "compare", "--config", file, "--out", tmp_path / "out", "--trust", "tests")
    assert outcomes(tmp_path / "out").items() > before.items()
    assert results(tmp_path / "out")[2]["error"] is None
    assert (tmp_path / "out/runs/double/own/rate-0.0001-seed-0/tensorboard/beginning.pt").exists()


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """With what error a comparison ends."""

    def compare(*arguments: str, **changes: Any) -> str:
        file = small(tmp_path, **changes)
        with pytest.raises(SystemExit) as ended:
            command(monkeypatch, "compare", "--config", file, "--out", tmp_path / "out", *arguments)
        return str(ended.value)

    return compare


def test_mistakes_are_said_before_anything_runs(refused: Refused, tmp_path: Path) -> None:
    assert refused(jobs=0) == "error: compare: jobs=0 must be a whole number >= 1"
    assert refused(seeds=[]) == "error: seeds is empty; there is nothing to compare"
    assert refused(methods={"a": {"parts": ["nowhere/{domain}.yaml"]}}).startswith(
        "error: nowhere/double.yaml does not exist, nor is it the name of a config"
    )
    assert "wait for each other" in refused(methods={"a": {"parts": [], "after": "a"}})
    assert not list(tmp_path.rglob("run.json"))


def test_a_file_cannot_ask_for_code_to_be_run(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = {"tasks": ["skills"], "include_path": str(tmp_path)}
    assert "prior.include_path" in refused(prior=prior)
    asks = {"class_path": "PriorTasks", "init_args": prior}
    file = write(tmp_path / "asks.yaml", {"trainer": {"callbacks+": [asks]}})
    command(monkeypatch, "compare", "--config", small(tmp_path, str(file)), "--out", tmp_path / "out")  # type: ignore[arg-type]
    assert [row["error"] is None for row in results(tmp_path / "out")] == [False, False]
    assert "--trust include_path" in results(tmp_path / "out")[0]["error"]
