"""What is said while runs are performed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_sdft.experiments.runs import lines, pool
from lightning_sdft.experiments.runs.lines import SHARE, RunsLines
from lightning_sdft.experiments.runs.run import Outcome, Run, read_parts
from lightning_sdft.progress import pace
from tests.experiments.laptop_runs import part


@pytest.fixture(autouse=True)
def every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHORTEST", 0.0)
    monkeypatch.setattr(pool, "SECONDS_BETWEEN_LOOKS", 0.01)


def folders(tmp_path: Path, *names: str) -> list[Path]:
    made = [tmp_path / "out" / "runs" / "double" / name for name in names]
    for each in made:
        each.mkdir(parents=True)
    return made


def test_how_far_all_runs_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = folders(tmp_path, "sft/rate-1-seed-0", "sdft/rate-1-seed-0", "sdft/rate-1-seed-1")
    told = RunsLines(5)
    told.leave_out()  # has been performed before
    told.begin(first)
    told.begin(second)
    told.look()  # nothing is done
    (first / SHARE).write_text("0.5000\n")
    told.look()
    told.look()  # nothing more is done
    told.end(first)
    (second / SHARE).write_text("1.0000\n")
    told.look()
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "begins: run 1 of 4, double/sft/rate-1-seed-0",
        "begins: run 2 of 4, double/sdft/rate-1-seed-0",
    ]
    end = "; ends at about "
    assert [line.split(end)[0] for line in said[2:]] == [
        "12% of all runs: 0 ended, double/sft/rate-1-seed-0 50%, double/sdft/rate-1-seed-0 0%",
        "50% of all runs: 1 ended, double/sdft/rate-1-seed-0 99%",
    ]
    assert all(re.search(r"\d\d:\d\d$", line) for line in said[2:])


def test_the_end_is_as_far_away_as_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = folders(tmp_path, "sft")
    monkeypatch.setattr(lines.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(lines, "at_clock", lambda seconds: f"in {seconds:g} s")
    told = RunsLines(2)
    told.begin(run)
    (run / SHARE).write_text("0.5")
    monkeypatch.setattr(lines.time, "monotonic", lambda: 160.0)
    told.look()
    assert capsys.readouterr().out.endswith("ends at about in 180 s\n")  # a quarter took 60 seconds


def test_the_first_steps_of_the_first_run_foretell_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They come behind the loading of the model and a first evaluation."""
    (run,) = folders(tmp_path, "sft")
    told = RunsLines(1)
    told.begin(run)
    (run / SHARE).write_text("0.0200")
    told.look()
    assert capsys.readouterr().out.splitlines()[-1] == "2% of all runs: 0 ended, double/sft 2%"


def test_a_run_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, run = folders(tmp_path, "done", "run")
    for folder in (done, run):
        Run(read_parts([part(max_steps=12, val_check_interval=None)], domain="double")).write(folder)
    Outcome(0.5, {}, 4, None, 1.5, 300.0).write(done)
    pool.perform_all([done, run], 1, 1, lambda *_: None)
    said = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
    assert ("begins:", " ", "run 1 of 1, double/run") in said
    assert any(re.match(r"of all runs: 0 ended, double/run \d+%(; ends at about|$)", line) for _, _, line in said)
    assert 0 < float((run / SHARE).read_text()) <= 1
