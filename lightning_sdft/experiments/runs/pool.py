"""Performs runs, each in a process of its own, several at once."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import torch

from lightning_sdft.experiments.runs.lines import RunsLines
from lightning_sdft.experiments.runs.run import Outcome
from lightning_sdft.experiments.runs.signals import ending_runs_first, is_ending
from lightning_sdft.settings import Count, check_ranges

__all__ = ["Failure", "perform_all"]

ERROR = re.compile(r"error: |[\w.]+(Error|Exception|Interrupt)\b")
"""The beginning of the error message that a process ends with, which may have several lines."""

LONGEST_REASON = 500

SECONDS_BETWEEN_LOOKS = 2.0
"""Seconds after which it is looked how far the runs are."""


class Failure(str):
    """Why a run did not end well."""


def perform_all(
    folders: Sequence[Path],
    jobs: Count,
    threads: Count,
    done: Callable[[Path, Outcome | Failure], Iterable[Path] | None],
    lines: RunsLines | None = None,
) -> None:
    """Perform the runs in folders that have no outcome yet.

    If a run fails or is killed, the others go on. On SIGTERM and SIGHUP the runs save and end first. With at least as
    many GPUs as jobs, each job has one of its own.

    Args:
        folders: Folders of runs.
        jobs: Number of runs at once.
        threads: CPU threads of each run; results may depend on their number in the last bit.
        done: Called after each run, and at once for those that have an outcome already; returns folders of runs that
            waited for this one.
        lines: Says which run begins and how far all are; by default of these folders alone.

    Raises:
        SettingError: If ``jobs`` or ``threads`` is not positive.
    """
    check_ranges(perform_all, locals())
    told = RunsLines(len(folders)) if lines is None else lines
    # Each process is forked from one that has done the imports, which would cost every run several seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_sdft.cli"])
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    gpus = jobs > 1 and torch.cuda.device_count() >= jobs

    def perform(folder: Path) -> Outcome | Failure:
        slot = slots.get()
        try:
            process = context.Process(target=_perform, args=(str(folder), threads, slot if gpus else None))
            if is_ending():
                return Failure("not begun, because the command was asked to end")
            process.start()
            told.begin(folder)
            if is_ending():
                process.terminate()
            process.join()
            told.end(folder)
        finally:
            slots.put(slot)
        return Outcome.read(folder) or Failure(_reason(folder, process.exitcode))

    waiting = deque(folders)
    with ending_runs_first(), ThreadPoolExecutor(jobs) as pool:
        started: dict[Future[Outcome | Failure], Path] = {}
        try:
            while waiting or started:
                while waiting:
                    folder = waiting.popleft()
                    found = Outcome.read(folder)
                    if found is None:
                        started[pool.submit(perform, folder)] = folder
                    else:
                        told.leave_out()
                        waiting.extend(done(folder, found) or ())
                told.look()
                for future in wait(started, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    waiting.extend(done(started.pop(future), future.result()) or ())
        except BaseException:  # such as Ctrl-C, which has ended the present runs: start no others
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _perform(folder: str, threads: int, gpu: int | None) -> None:
    """Perform a run in this process, as if started from a command line, which ``ddp`` repeats for other processes."""
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    torch.set_num_threads(threads)
    sys.argv = ["worker", folder]
    runpy.run_module("lightning_sdft.experiments.runs.worker", run_name="__main__", alter_sys=True)


def _reason(folder: Path, code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    log = folder / "log.txt"
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()] if log.exists() else []
    first = next((index for index in reversed(range(len(lines))) if ERROR.match(lines[index])), len(lines) - 1)
    reason = " ".join(line.strip() for line in lines[first:]).removeprefix("error: ") if lines else f"exit code {code}"
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
