"""Runs begin when what they wait for has ended, however long the others take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.experiments.laptop_runs import callback, command, part, results, write


def method(*parts: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return {"parts": [part(max_steps=1, val_check_interval=1), *parts], **arguments}


def until(file: Path) -> dict[str, Any]:
    return callback("Until", file=str(file))


def errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, **given: Any) -> list[Any]:
    """What went wrong in each run of an experiment with two jobs."""
    file = write(tmp_path / "config.yaml", {"learning_rates": [1.0e-4], "seeds": [0], "jobs": 2, **given})
    command(monkeypatch, name, "--config", file, "--out", tmp_path / "out", "--trust", "tests")
    return [row["error"] for row in results(tmp_path / "out")]


def test_what_comes_after_a_method_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = tmp_path / "out/runs/double/after/rate-0.0001-seed-0/outcome.json"
    methods = {"slow": method(until(after)), "SFT": method(), "after": method(after="SFT")}
    assert errors(tmp_path, monkeypatch, "compare", domains=["double"], methods=methods) == [None] * 4


def test_stage_waits_for_its_own_sequence_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tmp_path / "out/runs/sft/rate-0.0001-seed-0/stage-2-double/outcome.json"
    methods = {"slow": method(until(last)), "SFT": method()}
    skills = ["swap-ends", "double"]
    assert errors(tmp_path, monkeypatch, "continual", skills=skills, methods=methods) == [None] * 5
