"""Locks on folders and files: one process works in a folder or writes a file, and another one is told which."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from io import TextIOWrapper
from pathlib import Path

from lightning_sdft.errors import DataError

__all__ = ["claim", "claim_file", "release", "release_file", "writing"]

NAME = ".lock"

HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)

_held: dict[Path, TextIOWrapper] = {}


def claim(folder: Path, name: str = NAME) -> str | None:
    """Lock a folder for this process, until it calls :func:`release` or dies, however it dies.

    With another name of the lock's file than usual, it stands for something in the folder.

    The operating system holds the lock, so what a killed process leaves (a small file) locks nothing. Where the file
    system has no locks, or the folder cannot be written to, nothing is locked. A job that SLURM has started again gets
    the lock of its former self even if a file server has not yet noticed that the other host is gone.

    Returns:
        The process that holds the lock, in words; ``None`` if this process may work in the folder.
    """
    place = folder.absolute() / name
    if place in _held:
        return None
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / name).open("a+")
        except OSError:
            return None
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except OSError as error:
            holder = _read(file) if error.errno in HELD_ELSEWHERE else None
            file.close()
            return None if holder is None or _is_former_self(holder) else _in_words(holder)
        if _is_there(file, folder / name):
            break
        file.close()  # its holder has removed it meanwhile
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")}))
    file.flush()
    _held[place] = file
    return None


def release(folder: Path, name: str = NAME) -> None:
    """Give back what :func:`claim` has locked; nothing happens if it is not held."""
    file = _held.pop(folder.absolute() / name, None)
    if file is not None:
        with suppress(OSError):
            (folder / name).unlink()
        file.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lock a file that this process writes.

    Raises:
        DataError: If another process writes it.
    """
    claim_file(path)
    try:
        yield
    finally:
        release_file(path)


def claim_file(path: Path) -> None:
    """Lock a file that this process writes, as :func:`claim` does a folder.

    Raises:
        DataError: If another process writes it.
    """
    holder = claim(path.parent, _name(path))
    if holder is not None:
        raise DataError(f"{str(path)!r} is being written by {holder}; wait for it, or name another file")


def release_file(path: Path) -> None:
    """Give a file back; nothing happens if it is not held."""
    release(path.parent, _name(path))


def _name(path: Path) -> str:
    return f".{path.name}.lock"


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
