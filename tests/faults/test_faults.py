"""Faults that happen to real processes; the short version of ``python -m tests.faults``."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_sdft.checkpoint import CheckpointError, load_checkpoint
from lightning_sdft.cli import SIGTERM_EXIT, main
from tests.callbacks.test_preemption import SLURM, fake_scontrol
from tests.faults.phase import read
from tests.faults.runs import (
    EVERY,
    STEPS,
    differences,
    finish,
    last_checkpoint,
    prepare,
    result,
    running,
    wait_for,
    writing,
)

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the run that nothing happens to."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    assert finish(folder) == 0
    return result(folder)


def interrupt(folder: Path, condition: Callable[[], bool], signum: int, environment: dict[str, str]) -> int:
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


def test_a_run_that_ends_again_and_again_equals_the_one_that_does_not(whole: dict[str, Any], tmp_path: Path) -> None:
    """Killed in a rollout and a checkpoint write, requeued, ended by SIGTERM, the last checkpoint spoilt by a bit."""
    folder = prepare(tmp_path / "run", plugins=[{"class_path": "SLURMEnvironment"}])
    tools = fake_scontrol(tmp_path / "bin")
    slurm = {**SLURM, "PATH": f"{tools}:{os.environ['PATH']}"}

    assert interrupt(folder, in_phase(folder, "rollout", 5), signal.SIGKILL, slurm) == -signal.SIGKILL
    assert load_checkpoint(last_checkpoint(folder))["global_step"] == 3

    started = time.time_ns()
    is_writing = lambda: read(folder / "phase")[0] >= 9 and writing(folder, started)  # noqa: E731
    assert interrupt(folder, is_writing, signal.SIGKILL, slurm) == -signal.SIGKILL

    with running(folder, environment=slurm) as process:
        assert wait_for(in_phase(folder, "rollout", 12)), log(folder)
        process.send_signal(signal.SIGUSR1)
        assert wait_for((tools / "asked").exists, 60), log(folder)
    assert (tools / "asked").read_text() == "requeue 4321\n"
    assert load_checkpoint(folder / "hpc_ckpt_1.ckpt")["global_step"] == 13

    assert interrupt(folder, in_phase(folder, "backward", 16), signal.SIGTERM, slurm) == SIGTERM_EXIT
    assert "hpc_ckpt_1.ckpt" in log(folder).split("Training goes on from")[-1].splitlines()[0]
    newest = last_checkpoint(folder)
    assert load_checkpoint(newest)["global_step"] == 17  # the step that was running

    date = newest.stat().st_mtime_ns
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    os.utime(newest, ns=(date, date))
    with running(folder, environment=slurm) as process:
        assert process.wait(300) == 0, log(folder)
    assert "step000017.ckpt' is not whole" in " ".join(log(folder).split("passed over")[-1].split())
    assert "step000015.ckpt" in log(folder).split("Training goes on from")[-1].splitlines()[0]

    assert differences(whole, result(folder)) == []
    (run,) = (folder / "runs/run").iterdir()
    assert not list(run.glob("checkpoints/.*"))  # what was unfinished has been finished
    shown = [event.step for event in EventAccumulator(str(run)).Reload().Scalars("train/loss")]
    assert set(shown) == set(range(STEPS))
    assert min(later - step for step, later in pairwise(shown)) == -1  # the curve begins again where it was left


def descendants(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for child processes")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_alone_ends_the_others_within_a_minute(victim: int, tmp_path: Path) -> None:
    folder = prepare(tmp_path, processes=2, method="SFTModule", max_steps=100000)
    with running(folder) as process:
        assert wait_for(lambda: read(folder / "phase")[0] >= 4 or process.poll() is not None)
        (child,) = descendants(process)
        pids = [process.pid, child]
        os.kill(pids[victim], signal.SIGKILL)
        assert wait_for(lambda: process.poll() is not None and not is_running(child), 60), log(folder)
        assert process.returncode != 0
    assert load_checkpoint(last_checkpoint(folder))["global_step"] >= 3  # and it is whole


# Another number of processes


def test_a_run_goes_on_in_two_processes_and_in_one_again(tmp_path: Path) -> None:
    """With the same examples in the same steps, so that weights and losses are equal up to rounding.

    By a method without rollouts, for those may turn on rounding.
    """
    alone = prepare(tmp_path / "alone", method="SFTModule")
    assert finish(alone) == 0
    changing = tmp_path / "changing"
    for processes, step in ((1, 6), (2, 15)):
        prepare(changing, processes=processes, method="SFTModule")
        started = time.time_ns()
        with running(changing):
            assert wait_for(lambda: read(changing / "phase")[0] >= step and writing(changing, started)), log(changing)  # noqa: B023
        assert load_checkpoint(last_checkpoint(changing))["global_step"] in (step - EVERY, step)
    prepare(changing, method="SFTModule")
    assert finish(changing) == 0
    expected, found = result(alone), result(changing)
    for name, value in expected["state_dict"].items():
        assert torch.allclose(value, found["state_dict"][name], rtol=0, atol=1e-5), name
    # The first of several processes logs the loss of its own examples.
    losses, later = (
        [number(each["curves"]["train/loss", step]) for step in range(16, STEPS)] for each in (expected, found)
    )
    assert later == pytest.approx(losses, rel=1e-5, abs=1e-5)


def number(bits: bytes) -> float:
    (value,) = struct.unpack("f", bits)
    return float(value)


# A disk that is full

LAST = ["fit", "--config", "config.yaml", "--ckpt_path", "last", "--trust", "tests"]


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
        main(LAST)
    (run,) = (folder / "runs/run").iterdir()
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step000003.ckpt", "step000006.ckpt", "last.ckpt"}
    assert load_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == 6
    other.unlink()
    assert main(LAST).trainer.global_step == STEPS
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "step000021.ckpt",
        "step000024.ckpt",
        "last.ckpt",
    }
