from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from lightning_sdft.progress import Work, is_terminal, pace, work


@pytest.fixture(autouse=True)
def every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SHORTEST", 0.0)


def test_lines_where_no_bar_can_move(capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_terminal()
    with Work("preflight", 40, "answers") as each:
        for _ in range(5):
            each.advance(8)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ends at")[0] for line in lines] == [
        f"preflight: {done} of 40 answers ({done / 40:.0%})" for done in range(8, 41, 8)
    ]
    assert ["ends at" in line for line in lines] == [True] * 4 + [False]


def test_a_bar_in_a_terminal_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()

    def console(*_: Any, **options: Any) -> Console:
        return Console(**{"force_terminal": True, "width": 80, **options, "file": file})

    monkeypatch.setattr(work, "Console", console)
    monkeypatch.setattr("rich.progress.get_console", console)
    with Work("preflight", 3, "answers") as each:
        each.advance()
    assert "preflight, answers" in file.getvalue()
    assert "1/3" in file.getvalue()
    assert file.getvalue().endswith("\x1b[1A\x1b[2K")  # the line of the bar is cleared
    assert "(33%)" not in file.getvalue()


def test_nothing_if_nothing_is_to_be_shown_or_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Work("prior", 3, "answers", shown=False) as hidden, Work("prior", 0, "answers") as empty:
        hidden.advance()
        empty.advance()
    assert capsys.readouterr().out == ""
