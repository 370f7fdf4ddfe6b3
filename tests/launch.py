"""Several processes on this machine, as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from typing import Any

import dill  # which datasets brings
import torch
from torch import distributed

SECONDS = 300
"""How long a piece of work may take."""

POOL: list[tuple[ForkServerProcess, Connection]] = []
"""Processes that wait for work: what torch and transformers build when first used is built once in each."""


class ProcessError(Exception):
    """What a process has raised, with its traceback."""


def forked() -> ForkServerContext:
    """Processes that are copies of one that has done nothing but imports.

    A copy of a process in which tests have run may have locks of its threads, which nobody would release.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def preload() -> None:
    """Start the process that others are copies of, before the package starts one that has built less."""
    forked()
    ensure_running()


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call a function in processes that find each other by their environment.

    Work that comes later is given to the same processes, unless one of them has raised an error. The function may
    therefore leave nothing behind but a process group.

    Raises:
        ProcessError: If one of them raises an error.
    """
    POOL[:] = [each for each in POOL if each[0].is_alive()]  # tests of signals may end them
    while len(POOL) < count:
        POOL.append(_start())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = dill.dumps((work, arguments), recurse=True)  # functions inside of tests too
    waiting = {}
    for index, (_, pipe) in enumerate(POOL[:count]):
        pipe.send((index, count, port, call))
        waiting[pipe] = index
    while waiting:
        ready = wait(list(waiting), SECONDS)
        errors = [_error(pipe, waiting.pop(pipe)) for pipe in ready if isinstance(pipe, Connection)]
        if not ready or any(errors):  # the others may wait for the one that has failed
            for process, _ in POOL:
                process.kill()
            POOL.clear()
            raise ProcessError("\n".join(filter(None, errors)) or f"no end after {SECONDS} s")


def _start() -> tuple[ForkServerProcess, Connection]:
    context = forked()
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True)
    process.start()
    there.close()
    return process, here


def _error(pipe: Connection, index: int) -> str | None:
    try:
        error: str | None = pipe.recv()
    except EOFError:
        error = "it has died"
    return None if error is None else f"process {index}: {error}"


def _work(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            index, count, port, call = pipe.recv()
        except EOFError:
            return
        os.environ |= {
            "TORCHELASTIC_RUN_ID": "tests",
            "RANK": str(index),
            "LOCAL_RANK": str(index),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        try:
            work, arguments = dill.loads(call)
            work(*arguments)
        except BaseException:
            pipe.send(traceback.format_exc())
        else:
            pipe.send(None)
        if distributed.is_initialized():
            distributed.destroy_process_group()
