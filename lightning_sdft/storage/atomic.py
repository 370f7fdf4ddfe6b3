"""Files and folders that take their place when they are whole, under temporary names that no two processes share."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

__all__ = ["locked_folder", "remove_left_behind", "sync", "temporary_name", "whole_file", "write_text"]

SUFFIX = ".unfinished"


def temporary_name(path: Path) -> Path:
    """A name beside a path, hidden and like no other.

    Lightning treats every file with ``hpc_ckpt_`` in its name as a checkpoint, so that part is left out.
    """
    return path.with_name(f".{path.name.removeprefix('hpc_')}.{secrets.token_hex(4)}{SUFFIX}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Let a file be written under a temporary name; it takes its place, on disk, when the context ends without error.

    Until then the file is locked, so that others can tell it from one that a killed process has left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path)
    unfinished = temporary_name(path)
    try:
        with unfinished.open("xb") as file:
            with suppress(OSError):  # a file system without locks
                flock(file, LOCK_EX | LOCK_NB)
            yield unfinished
            os.fsync(file.fileno())
            os.replace(unfinished, path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def locked_folder(unfinished: Path) -> Iterator[None]:
    """Make a folder with a temporary name, and lock it so that nobody takes it for one that was left behind."""
    unfinished.mkdir(parents=True)
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        with suppress(OSError):
            flock(descriptor, LOCK_EX | LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is always whole."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def remove_left_behind(path: Path) -> None:
    """Remove what processes that were killed have left of a file or folder; what is still being written stays."""
    for unfinished in path.parent.glob(f".{path.name.removeprefix('hpc_')}.*{SUFFIX}"):
        with suppress(OSError):  # it is locked, or has taken its place meanwhile
            descriptor = os.open(unfinished, os.O_RDONLY)
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)
                if unfinished.is_dir():
                    shutil.rmtree(unfinished, ignore_errors=True)
                else:
                    unfinished.unlink()
            finally:
                os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that a file that was renamed survives a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
