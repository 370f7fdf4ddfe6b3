"""The console script in processes of their own, which need not import anything anew."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from tests.launch import forked

ROOT = Path(__file__).parents[1]


class CommandProcess:
    """``python -m lightning_sdft`` as a process group, copied from a process that has done nothing but imports.

    It has a process id, an exit code and signals like any other; a start takes a tenth of a second instead of eight.

    Args:
        arguments: Arguments of the command line.
        folder: Where it runs; by default here.
        log: A file that takes what it says; by default nothing does.
        environment: Environment variables beside those of this process.
        script: Python to run with these arguments in place of the console script.
    """

    def __init__(
        self,
        *arguments: object,
        folder: Path | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        script: str | None = None,
    ) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
        given = (
            [*map(str, arguments)],
            str(folder or Path.cwd()),
            str((log or Path(os.devnull)).absolute()),
            variables,
            script,
        )
        self._process = forked().Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or ``None`` while it runs; minus the signal that killed it."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Wait for its end; the exit code."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"still running after {seconds} s"
        return code

    def kill(self) -> None:
        """End all processes of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # if it has not come to form a group
        self._process.join()


def _run(arguments: list[str], folder: str, log: str, variables: dict[str, str], script: str | None) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    torch.set_num_threads(1)
    sys.argv = ["lightning_sdft", *arguments]
    if script is not None:
        exec(script, {"__name__": "__main__"})
        return
    runpy.run_module("lightning_sdft", run_name="__main__", alter_sys=True)  # which is what `ddp` repeats
