"""Locks on folders: one process works in a folder, and another one is told which."""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from io import TextIOWrapper
from pathlib import Path

__all__ = ["claim", "release"]

NAME = ".lock"

HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)

_held: dict[Path, TextIOWrapper] = {}


def claim(folder: Path) -> str | None:
    """Lock a folder for this process, until it calls :func:`release` or dies, however it dies.

    The operating system holds the lock, so what a killed process leaves (a small file) locks nothing. Where the file
    system has no locks, or the folder cannot be written to, nothing is locked. A job that SLURM has started again gets
    the lock of its former self even if a file server has not yet noticed that the other host is gone.

    Returns:
        The process that holds the lock, in words; ``None`` if this process may work in the folder.
    """
    place = folder.absolute()
    if place in _held:
        return None
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / NAME).open("a+")
        except OSError:
            return None
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except OSError as error:
            holder = _read(file) if error.errno in HELD_ELSEWHERE else None
            file.close()
            return None if holder is None or _is_former_self(holder) else _in_words(holder)
        if _is_there(file, folder / NAME):
            break
        file.close()  # its holder has removed it meanwhile
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")}))
    file.flush()
    _held[place] = file
    return None


def release(folder: Path) -> None:
    """Give a folder back; nothing happens if it is not held."""
    file = _held.pop(folder.absolute(), None)
    if file is not None:
        with suppress(OSError):
            (folder / NAME).unlink()
        file.close()


def _forget() -> None:
    """Close the files in a forked process, which would otherwise hold the locks after the death of this one."""
    for file in _held.values():
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_forget)


def _is_there(file: TextIOWrapper, path: Path) -> bool:
    """Whether a file that was opened is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _read(file: TextIOWrapper) -> dict[str, object]:
    file.seek(0)
    try:
        content = json.loads(file.read())
    except ValueError:  # it has locked the file, and not yet written who it is
        content = None
    return content if isinstance(content, dict) else {}


def _is_former_self(holder: dict[str, object]) -> bool:
    job = os.environ.get("SLURM_JOB_ID")
    return job is not None and holder.get("job") == job and holder.get("host") != socket.gethostname()


def _in_words(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"
