from __future__ import annotations

import os
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from lightning_sdft.storage.atomic import locked_folder, remove_left_behind, temporary_name, whole_file, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_one_file_share_no_temporary_name_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        assert not path.exists()
        first.write_text("one")
        second.write_text("two")
        assert len(names(path.parent)) == 2
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old ü")
    before = path.stat().st_mode
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "old ü"
    assert names(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert before & 0o777 == 0o666 & ~umask  # others may read it, as any file


def test_what_was_left_behind_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    left = [temporary_name(path) for _ in range(2)]
    left[0].write_text("half")
    left[1].mkdir()
    (left[1] / "part").write_text("half")
    writing = temporary_name(path)
    other = tmp_path / ".b.ckpt.0f.unfinished"
    other.write_text("of another file")
    with writing.open("w") as file, locked_folder(temporary_name(path)):
        flock(file, LOCK_EX)
        remove_left_behind(path)
        assert len(names(tmp_path)) == 3
        assert {writing.name, other.name} <= set(names(tmp_path))
    remove_left_behind(path)
    assert names(tmp_path) == [other.name]
