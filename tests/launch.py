"""Several processes on this machine, as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import dill  # which datasets brings
import torch
from torch.multiprocessing.spawn import start_processes


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call a function in processes that find each other by their environment.

    They are forked from a process that has done nothing but imports: one in which other tests have run may have threads
    that hold locks, which nobody would release in a copy of it.
    """
    multiprocessing.set_forkserver_preload(["lightning_sdft.cli", "tests.modules.conftest"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = dill.dumps((work, arguments), recurse=True)  # functions inside of tests too
    start_processes(_one, (count, port, call), nprocs=count, start_method="forkserver")  # type: ignore[no-untyped-call]


def _one(index: int, count: int, port: int, call: bytes) -> None:
    torch.set_num_threads(1)
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
    work, arguments = dill.loads(call)
    work(*arguments)
