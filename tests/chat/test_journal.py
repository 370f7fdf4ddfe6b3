from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from lightning_sdft.chat.journal import Journal, process_journal, process_records
from lightning_sdft.errors import DataError

RECORDS: list[dict[str, Any]] = [
    {"key": "a", "text": "ü \u2028 \n line", "list": [1, None]},
    {"key": "b", "text": ""},
    {"key": "a", "text": "once more"},
]


def test_records_come_back_in_order_and_are_only_added(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "er" / "replies.jsonl")
    assert journal.records() == []
    assert not journal.path.parent.exists()
    for number, record in enumerate(RECORDS, start=1):
        before = journal.path.read_bytes() if journal.path.exists() else b""
        journal.append(record)
        assert journal.path.read_bytes().startswith(before)
        assert journal.records() == RECORDS[:number]
    assert [json.loads(line) for line in journal.path.read_bytes().splitlines()] == RECORDS
    assert "ü" in journal.path.read_text(encoding="utf-8")
    assert journal.torn == 0


def test_several_records_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replies.jsonl")
    journal.extend([])
    assert not journal.path.exists()
    journal.extend(iter(RECORDS))
    Journal(tmp_path / "replies.jsonl").extend(RECORDS[:1])
    assert journal.records() == [*RECORDS, RECORDS[0]]


@pytest.mark.parametrize("left", range(1, 12))
def test_torn_last_line_is_dropped_counted_and_mended(
    left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "replies.jsonl"
    Journal(path).extend(RECORDS[:2])
    whole = path.read_bytes()
    line = json.dumps({"key": "é"}, ensure_ascii=False).encode()
    path.write_bytes(whole + line[:left])
    journal = Journal(path)
    assert journal.records() == RECORDS[:2]
    assert journal.torn == 1
    journal.append(RECORDS[2])
    assert "cut short" in caplog.text
    assert journal.records() == RECORDS
    assert path.read_bytes().startswith(whole)
    assert Journal(path).records() == RECORDS


def test_file_of_a_torn_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"key"')
    assert Journal(path).records() == []
    Journal(path).append(RECORDS[0])
    assert Journal(path).records() == RECORDS[:1]


@pytest.mark.parametrize("line", ["{", "[1]", "", "\x80"])
def test_broken_row_elsewhere_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + line.encode("latin-1") + b'\n{"key": "b"}\n')
    with pytest.raises(DataError, match=r"replies.jsonl, row 2: not a JSON object"):
        Journal(path).records()


def test_half_of_a_surrogate_pair_can_be_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "replies.jsonl")
    journal.append({"key": "a", "text": "\ud83d"})
    assert journal.records() == [{"key": "a", "text": "\ud83d"}]


def test_records_are_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "replies.jsonl", [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append(path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    for record in RECORDS:
        Journal(path).append(record)
        assert synced[-1] == path.read_bytes()
    assert len(synced) == len(RECORDS)


def test_each_process_writes_its_own_file_and_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process_journal(tmp_path, "replies").append({"key": "alone"})
    store = distributed.HashStore()
    distributed.init_process_group("fake", store=store, rank=1, world_size=2)
    try:
        process_journal(tmp_path, "replies").append({"key": "rank 1"})
    finally:
        distributed.destroy_process_group()
    assert (tmp_path / "replies.rank1.jsonl").read_text() == '{"key": "rank 1"}\n'
    assert [record["key"] for record in process_records(tmp_path, "replies")] == ["alone", "rank 1"]
    assert list(process_records(tmp_path, "verdicts")) == []
