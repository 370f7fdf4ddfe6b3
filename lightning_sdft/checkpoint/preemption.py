"""Handling signals between two optimizer steps, on all processes together."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint.signal_ear import SignalEar

__all__ = ["Preemption", "StopSignal", "exit_code", "say"]

SAME_SIGNAL = 3.0
"""Seconds within which a second signal counts as the first one: launchers and shells pass on what they get, so that a
process may get it twice."""

PATIENCE = 1.0
"""Seconds that a handler has to end the process before another thread does."""

OUTPUT = (1, 2)
"""Descriptors of what is printed."""


class StopSignal(SIGTERMException):
    """A signal has asked a run to end.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def exit_code(error: SIGTERMException) -> int:
    """The exit code that a shell and SLURM expect of a process that a signal has ended."""
    return 128 + (error.signum if isinstance(error, StopSignal) else signal.SIGTERM)


class Preemption(Callback):
    """Ends a run on SIGTERM or SIGHUP, and lets SLURM requeue it on SIGUSR1, without losing an optimizer step.

    On SIGTERM, the running optimizer step is finished, and ``ModelCheckpoint(save_on_exception=True)`` writes a
    checkpoint. The command line then exits with code 143, like any process ended by SIGTERM. A single process also
    interrupts a running validation, which is run after resuming; several processes finish theirs first. What the run
    waits for is said at once on stderr; another SIGTERM more than 3 seconds later ends it without waiting. Both work in
    the middle of a backward pass, too, during which Python runs no handler.

    SIGHUP, which a terminal sends when it is closed, does the same, with code 129; nothing is printed any more to a
    terminal or a pipe, because writing to one that is gone is an error. Under ``nohup`` it is ignored, as always.

    Under SLURM, with ``SLURMEnvironment(auto_requeue=True)``, SIGUSR1 (from ``sbatch --signal``) makes Lightning write
    ``hpc_ckpt_N.ckpt`` and requeue the job after the running optimizer step. Training continues until SLURM ends the
    job.

    Without this callback, Lightning would do either at once, in the middle of an optimizer step, where processes that
    communicate would wait for each other.
    """

    def __init__(self) -> None:
        self._stop = 0  # the signal that asked for it
        self._asked = 0.0  # when it did
        self._requeue_signal: int | None = None
        self._trainer: Trainer | None = None
        self._once = threading.Lock()  # taken by whoever says what the run waits for
        self._heard = 0.0  # when the first signal to stop was heard
        self._ear = SignalEar(self._hear)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's signal handlers by ones that only note the signal."""
        connector = trainer._signal_connector
        for name in ("_sigterm_notifier_fn", "_slurm_sigusr_handler_fn"):
            vars(connector).pop(name, None)  # set by an earlier run
        if stage == "fit":
            self._trainer = trainer
            self._requeue = connector._slurm_sigusr_handler_fn
            # Lightning has no hook for either of these handlers.
            connector._sigterm_notifier_fn = self._note_stop  # type: ignore[method-assign]
            connector._slurm_sigusr_handler_fn = self._note_requeue  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGHUP unless it is ignored or somebody else's; Lightning restores it behind the run."""
        self._ear.open()
        here = threading.current_thread() is threading.main_thread()
        if here and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._note_stop)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        self._ear.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._ear.close()

    def _hear(self, signum: int) -> None:
        """In a thread, while the main thread may be unable to run :meth:`_note_stop`."""
        if signum not in (signal.SIGTERM, signal.SIGHUP):
            return
        now = time.monotonic()
        if not self._heard:
            self._heard = now
            self._say_waits(signum)
        elif signum == signal.SIGTERM and now - self._heard > SAME_SIGNAL:
            time.sleep(PATIENCE)  # then the handler would have ended it
            self._say(signum, f"ended at once, with {self._last()}")
            self._kill_launched()
            os.kill(os.getpid(), signal.SIGKILL)  # SIGTERM would wait for its handler

    def _note_stop(self, signum: int, _: FrameType | None) -> None:
        if not self._stop:
            self._stop, self._asked = signum, self._heard or time.monotonic()
            self._say_waits(signum)
        elif signum == signal.SIGTERM and time.monotonic() - self._asked > SAME_SIGNAL:
            self._say(signum, f"ended at once, with {self._last()}")
            self._end_now(signum)
        if signum != signal.SIGTERM:
            _leave_terminal()

    def _note_requeue(self, signum: int, _: FrameType | None) -> None:
        self._requeue_signal = signum

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before an optimizer step, let all processes agree on what the signals ask for, and do it.

        Raises:
            StopSignal: If any process has been asked to end.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        requeue, stop = self._any(trainer, self._requeue_signal or 0, self._stop)
        if requeue:
            self._requeue_signal = None
            self._requeue(requeue, None)  # type: ignore[arg-type]  # the handler ignores the frame
        if stop:
            raise StopSignal(stop)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Interrupt the validation if this is the only process.

        Raises:
            StopSignal: If this process has been asked to end.
        """
        if self._stop and trainer.world_size == 1:
            raise StopSignal(self._stop)

    @staticmethod
    def _any(trainer: Trainer, *notes: int) -> list[int]:
        """The maximum of each value over all processes."""
        if trainer.world_size == 1:
            return list(notes)
        largest = torch.tensor(notes, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return [int(note) for note in largest]

    # What is said

    def _say(self, signum: int, text: str) -> None:
        if self._trainer is None or self._trainer.is_global_zero:
            say(signum, text)

    def _say_waits(self, signum: int) -> None:
        if self._once.acquire(blocking=False):
            self._say(signum, f"{self._waits()}. Another SIGTERM ends it at once, with {self._last()}")

    def _waits(self) -> str:
        saving = [getattr(each, "save_on_exception", False) for each in self._callbacks]
        saves = "saves a checkpoint" if any(saving) else "saves nothing, for no callback has save_on_exception"
        step = "optimizer step" if self._trainer is None else f"optimizer step {self._trainer.global_step + 1}"
        return f"the run finishes its {step}, {saves}, and ends"

    def _last(self) -> str:
        folders = {Path(each.dirpath) for each in self._callbacks if getattr(each, "dirpath", None)}
        found = [path for folder in folders for path in folder.glob("*.ckpt") if not path.is_symlink()]
        with suppress(OSError):  # one that has been removed meanwhile
            if found:
                return f"{max(found, key=lambda path: path.stat().st_mtime_ns)} as the last checkpoint"
        return "no checkpoint yet"

    @property
    def _callbacks(self) -> list[Any]:
        return [] if self._trainer is None else list(self._trainer.checkpoint_callbacks)

    def _end_now(self, signum: int) -> None:
        self._kill_launched()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def _kill_launched(self) -> None:
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)  # the processes that this one has started, which would wait for it


def say(signum: int, text: str) -> None:
    """Write a line to stderr from a signal handler, where printing might interrupt itself."""
    with suppress(OSError):
        os.write(OUTPUT[1], f"\n{signal.Signals(signum).name}: {text}\n".encode())


def _leave_terminal() -> None:
    """Let what is printed go nowhere if it goes to a terminal, or to a program that ends with the terminal."""
    for descriptor in OUTPUT:
        with suppress(OSError):
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
