"""Faults that happen to real processes; the short version of ``python -m tests.faults``."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.checkpoint import load_checkpoint
from lightning_sdft.cli import SIGTERM_EXIT
from lightning_sdft.commands.fit import main
from lightning_sdft.errors import CheckpointError
from tests.checkpoint.test_preemption import SLURM, fake_scontrol
from tests.command_process import CommandProcess
from tests.faults import runs
from tests.faults.phase import read
from tests.faults.runs import (
    EVERY,
    differences,
    finish,
    finish_two,
    last_checkpoint,
    result,
    running,
    two_running,
    wait_for,
    writing,
)

STEPS = 12
"""Of runs here: one epoch and a half."""


def prepare(folder: Path, max_steps: int = STEPS, **options: Any) -> Path:
    return runs.prepare(folder, max_steps=max_steps, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the run that nothing happens to."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    assert finish(folder) == 0
    return result(folder)


def interrupt(folder: Path, condition: Callable[[], bool], signum: int, **environment: str) -> int:
    """Start a run or let it go on, and send it a signal when something is true; its exit code."""
    with running(folder, environment=environment) as process:
        assert wait_for(lambda: condition() or process.poll() is not None)
        assert process.poll() is None, log(folder)
        os.kill(process.pid, signum)
        return process.wait(60)


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def in_phase(folder: Path, phase: str, step: int) -> Callable[[], bool]:
    return lambda: read(folder / "phase") == (step, phase)


def test_a_run_that_is_killed_again_and_again_equals_the_one_that_is_not(whole: dict[str, Any], tmp_path: Path) -> None:
    """In a rollout, in the middle of a checkpoint write, by SIGTERM, and with a bit of the last checkpoint changed."""
    folder = prepare(tmp_path)
    assert interrupt(folder, in_phase(folder, "rollout", 5), signal.SIGKILL) == -signal.SIGKILL
    assert load_checkpoint(last_checkpoint(folder))["global_step"] == 3
    started = time.time_ns()
    is_writing = lambda: read(folder / "phase")[0] >= 6 and writing(folder, started)  # noqa: E731
    assert interrupt(folder, is_writing, signal.SIGKILL) == -signal.SIGKILL

    assert interrupt(folder, in_phase(folder, "backward", 9), signal.SIGTERM) == SIGTERM_EXIT
    newest = last_checkpoint(folder)
    assert load_checkpoint(newest)["global_step"] == 10  # the step that was running
    assert not read(folder / "phase")[0] > 10

    size, date = newest.stat().st_size, newest.stat().st_mtime_ns
    with newest.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(64))
    os.utime(newest, ns=(date, date))
    assert finish(folder) == 0
    assert "passed over: the checkpoint" in log(folder)
    assert "step000009.ckpt" in log(folder).split("Training goes on from")[-1]

    assert differences(whole, result(folder)) == []
    (run,) = (folder / "runs/run").iterdir()
    assert not list(run.glob("checkpoints/.*.unfinished"))  # what was unfinished has been finished
    shown = [event.step for event in EventAccumulator(str(run)).Reload().Scalars("train/loss")]
    assert set(shown) == set(range(STEPS))
    assert min(later - step for step, later in pairwise(shown)) == -1  # the curve begins again where it was left


def test_slurm_requeues_a_job_and_it_goes_on(whole: dict[str, Any], tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run", plugins=[{"class_path": "SLURMEnvironment"}])
    tools = fake_scontrol(tmp_path / "bin")
    slurm = {**SLURM, "PATH": f"{tools}:{os.environ['PATH']}"}
    with running(folder, environment=slurm) as process:
        assert wait_for(in_phase(folder, "rollout", 6))
        os.kill(process.pid, signal.SIGUSR1)
        assert wait_for(lambda: (tools / "asked").exists(), 60)
        process.kill()
    assert (tools / "asked").read_text() == "requeue 4321\n"
    assert load_checkpoint(folder / "hpc_ckpt_1.ckpt")["global_step"] == 7
    with running(folder, environment=slurm) as process:
        assert process.wait(120) == 0, log(folder)
    assert "hpc_ckpt_1.ckpt" in log(folder).split("Training goes on from")[-1]
    assert differences(whole, result(folder)) == []


def descendants(process: CommandProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for child processes")
def test_a_process_that_is_killed_alone_ends_the_one_that_has_started_it_within_a_minute(tmp_path: Path) -> None:
    folder = prepare(tmp_path, processes=2, method="SFTModule", max_steps=100000)
    with running(folder) as process:
        assert wait_for(lambda: read(folder / "phase")[0] >= 4 or process.poll() is not None)
        (child,) = descendants(process)
        os.kill(child, signal.SIGKILL)
        assert wait_for(lambda: process.poll() is not None, 60), log(folder)
        assert process.poll() != 0
    assert load_checkpoint(last_checkpoint(folder))["global_step"] >= 3  # and it is whole


def test_the_first_process_that_is_killed_alone_ends_the_other_within_a_minute(tmp_path: Path) -> None:
    folder = prepare(tmp_path, processes=2, method="SFTModule", max_steps=100000)
    with two_running(folder) as (first, other):
        assert wait_for(lambda: read(folder / "phase")[0] >= 4 or other.poll() is not None)
        os.kill(first.pid, signal.SIGKILL)
        assert wait_for(lambda: other.poll() is not None, 60), log(folder)
        assert first.poll() == -signal.SIGKILL
        assert other.poll() != 0
    assert load_checkpoint(last_checkpoint(folder))["global_step"] >= 3  # and it is whole


# Another number of processes

BEHIND = range(2 * EVERY + 1, STEPS)
"""Steps behind those that the first number of processes has taken."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a run of one process, by a method without rollouts, for those may turn on rounding."""
    folder = prepare(tmp_path_factory.mktemp("alone"), method="SFTModule")
    assert finish(folder) == 0
    return result(folder)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_with_a_run(
    before: int, after: int, alone: dict[str, Any], tmp_path: Path
) -> None:
    """With the same examples in the same steps, so that losses and weights are equal up to rounding."""
    prepare(tmp_path, processes=before, method="SFTModule")
    started = time.time_ns()
    with ExitStack() as stack:
        two = stack.enter_context(two_running(tmp_path)) if before == 2 else []
        (writes, *_) = two or [stack.enter_context(running(tmp_path))]
        assert wait_for(lambda: read(tmp_path / "phase")[0] >= 2 * EVERY and writing(tmp_path, started)), log(tmp_path)
        os.killpg(writes.pid, signal.SIGKILL)
    assert load_checkpoint(last_checkpoint(tmp_path))["global_step"] in (EVERY, 2 * EVERY)
    prepare(tmp_path, processes=after, method="SFTModule")
    assert (finish if after == 1 else finish_two)(tmp_path) == 0, log(tmp_path)
    found = result(tmp_path)
    for name, value in alone["state_dict"].items():
        assert torch.allclose(value, found["state_dict"][name], rtol=0, atol=1e-5), name
    if after == 1:  # the first of several logs the loss of its own examples
        losses, later = ([number(each["curves"]["train/loss", step]) for step in BEHIND] for each in (alone, found))
        assert later == pytest.approx(losses, rel=1e-5, abs=1e-5)


def number(bits: bytes) -> float:
    (value,) = struct.unpack("f", bits)
    return float(value)


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB, on which there is room for three checkpoints of 13."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a run in this process may still be in there


def test_a_full_disk_stops_the_run_and_with_more_room_it_goes_on(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare(small_disk)
    other = small_disk / "other"
    other.write_bytes(bytes(5 * 2**20))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["lightning-sdft"])
    with pytest.raises(CheckpointError, match=r"step000009.ckpt' could not be written .*make room"):
        main(["fit", "--config", "config.yaml", "--ckpt_path", "last"], trust=["tests"])
    (run,) = (folder / "runs/run").iterdir()
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step000003.ckpt", "step000006.ckpt", "last.ckpt"}
    assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 6
    other.unlink()
    assert main(["fit", "--config", "config.yaml", "--ckpt_path", "last"], trust=["tests"]).trainer.global_step == STEPS
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "step000009.ckpt",
        "step000012.ckpt",
        "last.ckpt",
    }
