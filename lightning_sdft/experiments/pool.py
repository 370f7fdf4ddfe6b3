"""Performs runs, each in a process of its own, several at once."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import torch

from lightning_sdft.experiments.run import Outcome

__all__ = ["Failure", "perform_all"]


class Failure(str):
    """Why a run did not end well."""


def perform_all(
    folders: Sequence[Path], jobs: int, threads: int, done: Callable[[Path, Outcome | Failure], None]
) -> None:
    """Perform the runs in folders that have none yet.

    A run that fails, or is killed, leaves the others alone. Where there are as many GPUs as jobs, each job has one.

    Args:
        folders: Folders of runs.
        jobs: Runs at once.
        threads: Threads of each; results may depend on their number in the last bit.
        done: Called after each run, and at once for those that were done before.
    """
    # Processes are copies of one that has done the imports, seconds of which each run would have to pay for.
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
            process.start()
            process.join()
        finally:
            slots.put(slot)
        return Outcome.read(folder) or Failure(_reason(folder, process.exitcode))

    waiting = []
    for folder in folders:
        found = Outcome.read(folder)
        if found is None:
            waiting.append(folder)
        else:
            done(folder, found)
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(perform, folder): folder for folder in waiting}
        for future in as_completed(started):
            done(started[future], future.result())


def _perform(folder: str, threads: int, gpu: int | None) -> None:
    """In the process of a run: as if it had been started from a command line, which is what ``ddp`` repeats."""
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    torch.set_num_threads(threads)
    sys.argv = ["worker", folder]
    runpy.run_module("lightning_sdft.experiments.worker", run_name="__main__", alter_sys=True)


def _reason(folder: Path, code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    lines = (folder / "log.txt").read_text(errors="replace").split("\n") if (folder / "log.txt").exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last[:300]
