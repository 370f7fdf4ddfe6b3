"""Signals to this very process, in the middle of optimizer steps; tests/faults sends them to others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint import Preemption, exit_code, load_checkpoint, preemption
from lightning_sdft.checkpoint.preemption import StopSignal
from lightning_sdft.data.splits import EvaluationSet
from lightning_sdft.grading.exact_match import ExactMatch
from tests.checkpoint.interruption import Curves, Fit, Keep, Run, assert_same_run, fit, newest, whole
from tests.modules.conftest import question

__all__ = ["fit", "whole"]


class Signal(Callback):
    """Sends a signal in a hook, the n-th time that it is called."""

    def __init__(self, signum: int, hook: str, number: int) -> None:
        def count(*_: Any, **__: Any) -> None:
            self.calls += 1
            if self.calls == number:
                os.kill(os.getpid(), signum)

        self.calls = 0
        setattr(self, hook, count)


@pytest.mark.parametrize(
    ("hook", "number", "step"),
    [
        ("on_before_backward", 9, 5),  # the step that is running is finished
        ("on_before_backward", 10, 5),
        ("on_before_optimizer_step", 4, 4),  # and so is the validation behind it, if it has not begun
        ("on_train_epoch_end", 1, 4),
        ("on_validation_batch_start", 3, 8),  # a validation is left
        ("on_validation_batch_end", 4, 8),
    ],
)
def test_sigterm_ends_the_run_between_two_steps_and_it_resumes_exactly(
    hook: str, number: int, step: int, fit: Fit, whole: Callable[..., Run], tmp_path: Path
) -> None:
    before, handler = Curves(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        fit("interrupted", Signal(signal.SIGTERM, hook, number), Keep(before))
    assert signal.getsignal(signal.SIGTERM) is handler
    checkpoint = newest(tmp_path / "interrupted")
    assert load_checkpoint(checkpoint)["global_step"] == step
    assert_same_run(whole(), fit("resumed", ckpt_path=checkpoint), before)


def test_sighup_does_as_sigterm_does_and_says_what_the_run_waits_for(
    fit: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StopSignal) as ended:
        fit("interrupted", *(Signal(signal.SIGHUP, "on_before_backward", number) for number in (9, 10)))
    assert exit_code(ended.value) == 129
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert load_checkpoint(newest(tmp_path / "interrupted"))["global_step"] == 5
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "SIGHUP" in line)
    expected = "SIGHUP: the run finishes its optimizer step 5, saves a checkpoint, and ends. "
    assert (
        line
        == expected + f"Another SIGTERM ends it at once, with {tmp_path}/interrupted/step=4.ckpt as the last checkpoint"
    )


def test_sighup_is_ignored_under_nohup(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, trainer, _ = fit("whole", Signal(signal.SIGHUP, "on_before_backward", 1), max_steps=1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.global_step == 1


def test_nothing_is_printed_to_a_terminal_that_is_gone() -> None:
    terminal, end = os.openpty()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    before = signal.signal(signal.SIGHUP, Preemption()._note_stop)
    try:
        for descriptor in (1, 2):
            os.dup2(end, descriptor)
        os.close(terminal)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(2, b"lost")
        os.kill(os.getpid(), signal.SIGHUP)
        assert [os.write(descriptor, b"lost") for descriptor in (1, 2)] == [4, 4]
    finally:
        signal.signal(signal.SIGHUP, before)
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(end)


class Impatient(Callback):
    """In a copy of this process, sends three signals: two as a launcher does, and a late one."""

    ended = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx != 6:
            return
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                preemption.SAME_SIGNAL = -1
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        self.ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_second_sigterm_ends_at_once_and_names_the_last_checkpoint(
    fit: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    impatient = Impatient()
    fit("whole", impatient, max_steps=4, save={"every_n_train_steps": 3})
    assert impatient.ended == -signal.SIGTERM
    said = [line for line in capfd.readouterr().err.splitlines() if "SIGTERM" in line]
    assert len(said) == 2
    assert said[1] == f"SIGTERM: ended at once, with {tmp_path}/whole/step=3.ckpt as the last checkpoint"


def test_both_are_heard_while_the_main_thread_cannot_run_a_handler(capfd: pytest.CaptureFixture[str]) -> None:
    child = os.fork()
    if child == 0:
        callback = Preemption()
        preemption.PATIENCE = 0.0
        callback._hear(signal.SIGTERM)
        callback._hear(signal.SIGTERM)  # as launchers send it
        preemption.SAME_SIGNAL = -1
        callback._hear(signal.SIGHUP)
        callback._hear(signal.SIGTERM)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    err = capfd.readouterr().err
    waits, ends = [line for line in err.splitlines() if "SIGTERM" in line]
    assert waits.startswith("SIGTERM: the run finishes its optimizer step")
    assert ends == "SIGTERM: ended at once, with no checkpoint yet"
    assert "SIGHUP" not in err


def test_sigterm_in_the_last_step_leaves_nothing_to_stop(fit: Fit) -> None:
    _, trainer, _ = fit("whole", Signal(signal.SIGTERM, "on_before_backward", 20))
    assert trainer.global_step == 10


def test_an_evaluation_by_the_same_trainer_ends_at_sigterm_as_lightning_has_it(fit: Fit, words_data: Any) -> None:
    module, trainer, _ = fit("whole", max_steps=1)
    trainer.callbacks.append(Signal(signal.SIGTERM, "on_validation_batch_start", 1))  # type: ignore[attr-defined]
    graded = [EvaluationSet([question(index) for index in range(3)], {"letters": ExactMatch()})]
    with pytest.raises(SIGTERMException):
        trainer.validate(module, datamodule=words_data(validation=graded, evaluation_batch_size=1))


SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_ID": "4321",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS_PER_NODE": "1",
}


def fake_scontrol(folder: Path) -> Path:
    """A folder with a `scontrol` that writes down what it was asked for, in `asked` beside it."""
    folder.mkdir()
    command = folder / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {folder / "asked"}\n')
    command.chmod(0o755)
    return folder


@pytest.mark.parametrize(("number", "step"), [(9, 5), (10, 5)])
def test_requeue_signal_of_slurm_writes_its_checkpoint_between_two_steps(
    number: int,
    step: int,
    fit: Fit,
    whole: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole()
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    folder = fake_scontrol(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    signals = [
        Signal(signum, "on_before_backward", at) for signum, at in ((signal.SIGUSR1, number), (signal.SIGTERM, 13))
    ]
    before = Curves()
    with pytest.raises(SIGTERMException):
        fit("interrupted", *signals, Keep(before), plugins=[SLURMEnvironment(auto_requeue=True)])
    assert (folder / "asked").read_text() == "requeue 4321\n"
    assert load_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")["global_step"] == step
    assert load_checkpoint(newest(tmp_path / "interrupted"))["global_step"] == 7
    resumed = fit("resumed")  # Lightning finds the checkpoint by itself
    assert resumed[1].ckpt_path == str(tmp_path / "hpc_ckpt_1.ckpt")
    assert_same_run(expected, resumed, before)
