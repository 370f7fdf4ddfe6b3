"""Tables that are made again, from an archive alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.remake import remake
from tests.experiments.small_experiment import TABLES, packed, write_experiment

__all__ = ["packed"]


def test_tables_from_the_archive_alone_are_the_same_to_the_last_byte(packed: tuple[Path, Path], tmp_path: Path) -> None:
    out, archive = packed
    alone = tmp_path / "elsewhere.zip"
    alone.write_bytes(archive.read_bytes())
    remake(str(alone), str(tmp_path / "again"))
    assert {name: (tmp_path / "again" / name).read_bytes() for name in TABLES} == {
        name: (out / name).read_bytes() for name in TABLES
    }
    assert not (tmp_path / "again" / "runs").exists()


def test_tables_are_made_from_a_folder_too(packed: tuple[Path, Path], tmp_path: Path) -> None:
    remake(str(packed[0]), str(tmp_path / "again"))
    assert (tmp_path / "again/table5.md").read_bytes() == (packed[0] / "table5.md").read_bytes()


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of somebody else may name any path."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../escaped.json", "{}")
        archive.writestr(f"{tmp_path}/elsewhere/escaped.json", "{}")
    with pytest.raises(SettingError, match=r"has no experiment\.json, which compare and continual write"):
        remake(str(tmp_path / "evil.zip"), str(tmp_path / "again"))
    assert list(tmp_path.glob("**/escaped.json")) == []


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("text")
    for name in ("text.zip", "nowhere.zip"):
        with pytest.raises(
            SettingError, match=rf"archive='.*{name}' cannot be read .*; give what --archive has written"
        ):
            remake(str(tmp_path / name), str(tmp_path / "again"))


def test_tables_of_another_experiment_are_not_overwritten(packed: tuple[Path, Path], tmp_path: Path) -> None:
    write_experiment(tmp_path)
    with pytest.raises(SettingError, match="is the folder of an experiment, whose tables would be overwritten"):
        remake(str(packed[1]), str(tmp_path))
