"""Makes one mutation after another in a copy of the tree, and asks the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mutations.table import PACKAGE, Mutation, find, mutated

__all__ = ["Results", "confirm", "copy_tree", "judged", "read_sources", "study"]

PASSED, FAILED = 0, 1
"""Exit codes of pytest."""
NOT_RUN = re.compile(r"ERROR collecting|while loading conftest|^E +(ImportError|NameError|SyntaxError)", re.MULTILINE)
"""What pytest prints where code does not even run, so that any test would have caught it."""
FIRST = re.compile(r"^(?:FAILED|ERROR) (\S+\.py(?:::\w+)*(?:\[.*?\])?)(?: - (.*))?$", re.MULTILINE)
"""The summary's line of the test that failed, with what it says."""


class Results:
    """What was found out of each mutation, in a file that is written as it comes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.records: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        self._lock = threading.Lock()

    def of(self, mutation: Mutation) -> dict[str, Any] | None:
        """What is known of a mutation, unless it was another one then."""
        record = self.records.get(mutation.fault)
        return record if record is not None and record["mutation"] == mutation._asdict() else None

    def keep(self, mutation: Mutation, **what: Any) -> None:
        """Write down what was found out, beside what is known already."""
        with self._lock:
            known = self.of(mutation) or {"mutation": mutation._asdict()}
            self.records[mutation.fault] = known | what
            self.file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.records, indent=1) + "\n")
            unfinished.replace(self.file)


def copy_tree(root: Path, to: Path) -> Path:
    """Copy what git knows or would add, as it is now; returns the copy."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


def read_sources(tree: Path) -> dict[Path, str]:
    """The text of every module of the package, by its path."""
    return {file: file.read_text(encoding="utf-8") for file in sorted((tree / PACKAGE).rglob("*.py"))}


def run_tests(tree: Path, arguments: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """The exit code of pytest in a tree (``None`` for one that took too long), and what it printed."""
    # Without files of bytecode, for two versions of a file within a second may share theirs.
    own = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tree,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what tests have started ends with them
    )
    try:
        printed, _ = process.communicate(timeout=timeout)
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        return None, f"took more than {timeout:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def verdict_on(mutation: Mutation, tree: Path, timeout: float) -> dict[str, Any]:
    """Make a mutation in a tree, run its tests, and undo it.

    Returns:
        The ``verdict``: ``caught``, ``survived``, ``broken`` where the code did not run, and ``error`` where the tests
        did not; with ``by``, the test that failed, and what was said.
    """
    sources = read_sources(tree)
    place = find(mutation, sources)
    source = sources[place.file]
    started = time.monotonic()
    try:
        place.file.write_text(mutated(mutation, source, place), encoding="utf-8")
        code, printed = run_tests(tree, ["-x", *mutation.arguments], timeout)
    finally:
        place.file.write_text(source, encoding="utf-8")
    return judged(code, printed) | {"seconds": round(time.monotonic() - started, 1)}


def judged(code: int | None, printed: str) -> dict[str, Any]:
    """What pytest's exit code and words mean for a mutation."""
    failed = FIRST.search(printed)
    if code == PASSED:
        return {"verdict": "survived"}
    if code == FAILED and failed is not None and not NOT_RUN.search(printed):
        return {"verdict": "caught", "by": failed[1], "said": failed[2] or ""}
    return {"verdict": "broken" if NOT_RUN.search(printed) else "error", "said": printed.strip()[-2000:]}


def study(mutations: Iterable[Mutation], trees: Sequence[Path], results: Results, timeout: float) -> None:
    """Find out which mutations are caught, one at a time in each of the trees; prints a line for each."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(mutation: Mutation) -> None:
        tree = free.get()
        try:
            found = verdict_on(mutation, tree, timeout)
        except LookupError as error:
            found = {"verdict": "error", "said": str(error), "seconds": 0.0}
        finally:
            free.put(tree)
        results.keep(mutation, **found, confirmed=False)
        print(f"{found['verdict']:8} {found['seconds']:6.1f} s  {mutation.room}: {mutation.fault}", flush=True)

    with ThreadPoolExecutor(len(trees)) as pool:
        try:
            list(pool.map(one, mutations))
        except BaseException:  # such as Ctrl-C
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def confirm(mutations: Sequence[Mutation], tree: Path, results: Results, timeout: float) -> None:
    """Run the tests that caught something on the code as it is: those that fail there, too, have caught nothing.

    Raises:
        RuntimeError: If pytest does not run them.
    """
    records = {each: record for each in mutations if (record := results.of(each)) and record["verdict"] == "caught"}
    open_ones = {mutation: record["by"] for mutation, record in records.items() if not record["confirmed"]}
    if not open_ones:
        return
    tests = sorted(set(open_ones.values()))
    code, printed = run_tests(tree, tests, timeout * len(tests))
    failing = {failed[1] for failed in FIRST.finditer(printed)}
    if code not in (PASSED, FAILED):
        raise RuntimeError(f"the tests that caught something could not be run again:\n{printed.strip()[-2000:]}")
    for mutation, test in open_ones.items():
        if test in failing:
            results.keep(mutation, verdict="error", said=f"{test} fails without the mutation, too")
        else:
            results.keep(mutation, confirmed=True)
