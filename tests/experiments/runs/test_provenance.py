"""Where results come from: what can be known of a clone, and of an installed package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightning_sdft.experiments.runs import provenance
from lightning_sdft.experiments.runs.provenance import provenance as found


def clone(folder: Path) -> Path:
    """A repository with a package as deep in it as this one."""
    file = folder / "package" / "experiments" / "runs" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("a")
    settings = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], [*settings, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return file


def test_commit_is_that_of_the_clone_with_a_mark_if_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = clone(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(file))
    commit = found()["commit"]
    assert len(commit) == 40
    file.write_text("b")
    assert found()["commit"] == f"{commit} with changes"


def test_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "a/b/c/provenance.py"))
    assert found()["commit"] is None


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert found()["versions"].keys() == {"torch"}
