"""Whose outcomes are taken, and for which runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.finished import Finished
from lightning_sdft.experiments.runs.run import Outcome, Run

RUN = Run([{"model": {"init_args": {"learning_rate": 1e-5}}}], evaluate_also=[[{"data": 1}]])
DETAILS = Details({"test/accuracy/double": {"a": True}}, {"val/accuracy": {4: 0.5}}, {"cores": 2})
OUTCOME = Outcome(0.5, {"test/accuracy": 0.25}, 4, "best.ckpt", 1.5, 300.0)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """An experiment with a finished run and one that is not."""
    RUN.write(tmp_path / "others/runs/double/sft/seed-0")
    OUTCOME.write(tmp_path / "others/runs/double/sft/seed-0")
    DETAILS.write(tmp_path / "others/runs/double/sft/seed-0")
    replace(RUN, train=False).write(tmp_path / "others/runs/double/base/seed-0")
    return tmp_path / "others"


def taken(run: Run, others: Path, folder: Path) -> Outcome | None:
    run.write(folder)
    Finished([str(others.parent)]).copy(run, folder)
    return Outcome.read(folder)


def test_outcome_is_that_of_the_same_run(others: Path, tmp_path: Path) -> None:
    assert taken(RUN, others, tmp_path / "same") == OUTCOME
    assert Details.read(tmp_path / "same") == DETAILS
    assert taken(replace(RUN, trust=["mylab"]), others, tmp_path / "trusting") == OUTCOME
    assert taken(replace(RUN, checkpoint="last"), others, tmp_path / "last") is None
    assert taken(replace(RUN, train=False), others, tmp_path / "unfinished") is None


def test_outcome_of_its_own_stays(others: Path, tmp_path: Path) -> None:
    own = replace(OUTCOME, seconds=2.5)
    RUN.write(tmp_path / "own")
    own.write(tmp_path / "own")
    assert taken(RUN, others, tmp_path / "own") == own


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"reuse='.*nowhere': there is no such folder"):
        Finished([str(tmp_path / "nowhere")])
