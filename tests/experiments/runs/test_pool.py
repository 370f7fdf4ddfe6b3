"""Processes of runs: what is said of those that do not end well, and what signals leave alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.experiments.runs.pool import Failure, _reason, perform_all
from lightning_sdft.experiments.runs.run import Outcome, Run, read_parts
from tests.experiments.laptop_runs import callback, part

OUTCOME = Outcome(0.5, {}, 4, None, 1.5, 300.0)


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("error: the first\n  File x\nKeyError: 'second'\n\n", 1, "KeyError: 'second'"),
        (
            "usage: fit\nerror: Parser key:\n  Errors:\n    - ValueError: no\n",
            2,
            "Parser key: Errors: - ValueError: no",
        ),
        ("lab.own.SomeException: why\nmore\n", 1, "lab.own.SomeException: why more"),
        ("Errors are not said\n", 3, "Errors are not said"),
        ("error: in vain\n", -9, "killed by SIGKILL"),
        ("", 3, "exit code 3"),
        (None, 3, "exit code 3"),
        ("error: " + 600 * "x", 1, 500 * "x" + "..."),
    ],
)
def test_reason_is_what_a_process_said_last(log: str | None, code: int, reason: str, tmp_path: Path) -> None:
    if log is not None:
        (tmp_path / "log.txt").write_text(log)
    assert _reason(tmp_path, code) == reason


def test_runs_that_were_done_are_said_at_once_and_others_fail_alone(tmp_path: Path) -> None:
    """A run whose config is none fails in its own process."""
    folders = [tmp_path / name for name in ("done", "first", "second")]
    for folder in folders:
        Run([{"model": {"class_path": "Nonsense"}}]).write(folder)
    OUTCOME.write(folders[0])
    said: dict[Path, Outcome | Failure] = {}
    perform_all(folders, 2, 1, said.__setitem__)
    assert next(iter(said)) == folders[0]
    assert said[folders[0]] == OUTCOME
    assert all(isinstance(said[folder], Failure) and "Nonsense" in str(said[folder]) for folder in folders[1:])


def test_what_has_waited_for_a_run_begins_when_that_has_ended(tmp_path: Path) -> None:
    """Behind one that was done before, and behind one that fails now, while another is still to come."""
    folders = [tmp_path / name for name in ("done", "failing", "other", "waited")]
    for folder in folders:
        Run([{"model": {"class_path": "Nonsense"}}]).write(folder)
    OUTCOME.write(folders[0])
    OUTCOME.write(folders[3])
    waiting = {folders[0]: folders[1:2], folders[1]: folders[3:]}
    said: list[Path] = []

    def done(folder: Path, what: Outcome | Failure) -> list[Path]:
        said.append(folder)
        return waiting.get(folder, [])

    perform_all([folders[0], folders[2]], 2, 1, done)
    assert said[0] == folders[0]
    assert sorted(said) == sorted(folders)
    assert said.index(folders[3]) > said.index(folders[1])


def test_ctrl_c_starts_no_more_runs(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        Run([{"model": {"class_path": "Nonsense"}}]).write(folder)

    def interrupt(folder: Path, what: Outcome | Failure) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform_all(folders, 1, 1, interrupt)
    assert sum((folder / "log.txt").exists() for folder in folders) <= 2  # one may have begun meanwhile


def test_sigterm_lets_runs_save_and_starts_no_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    last = {"trainer": {"callbacks+": [{"class_path": "LastCheckpoints"}]}}
    for folder in folders:
        parts = read_parts([part(), last, callback("SignalTo", pid=os.getpid())], domain="double")
        Run(parts, trust=["tests"]).write(folder)
    with pytest.raises(SystemExit) as ended:
        perform_all(folders, 1, 1, lambda folder, what: None)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "SIGTERM: the runs finish their optimizer steps, save and end" in capfd.readouterr().err
    (checkpoint,) = folders[0].glob("tensorboard/checkpoints/step*.ckpt")
    assert load_checkpoint(checkpoint)["global_step"] == 2
    assert "SIGTERM: the run finishes its optimizer step 3, saves a" in (folders[0] / "log.txt").read_text()
    assert not (folders[1] / "log.txt").exists()
