from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_sdft.storage import lock
from lightning_sdft.storage.lock import claim, release


@contextmanager
def another_process(work: Callable[[], None]) -> Iterator[int]:
    """A copy of this process that does something and then waits for its end."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(done, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    try:
        assert os.read(ready, 1) == b"x"
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)


def test_a_folder_is_one_processs_until_that_dies_however_it_dies(tmp_path: Path) -> None:
    with another_process(lambda: assert_free(tmp_path)) as child:
        assert claim(tmp_path) == f"process {child} on {socket.gethostname()}"
    assert_free(tmp_path)
    assert_free(tmp_path)  # as its own process may
    release(tmp_path)


def assert_free(folder: Path) -> None:
    assert claim(folder) is None


def test_what_a_process_starts_does_not_keep_its_folders(tmp_path: Path) -> None:
    """Such as the workers of a loader, which may outlive it."""
    assert_free(tmp_path)
    with (tmp_path / ".lock").open() as file, another_process(lambda: None):
        with pytest.raises(BlockingIOError):
            lock.flock(file, lock.LOCK_EX | lock.LOCK_NB)
        release(tmp_path)
        lock.flock(file, lock.LOCK_EX | lock.LOCK_NB)
    assert not list(tmp_path.iterdir())
    release(tmp_path)  # of what is not held


def test_a_job_that_is_started_again_on_another_host_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_process(lambda: assert_free(tmp_path)):
        for host, job, is_free in (("gone", "7", True), ("gone", "8", False), (socket.gethostname(), "7", False)):
            (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": host, "job": job}))
            monkeypatch.setenv("SLURM_JOB_ID", "7")
            assert (claim(tmp_path) is None) is is_free
        (tmp_path / ".lock").write_text("")
        assert claim(tmp_path) == "another process"


def test_where_there_are_no_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "flock", without_locks)
    assert_free(tmp_path)
    (tmp_path / "file").write_text("")
    assert_free(tmp_path / "file" / "folder")  # which cannot be made
