from __future__ import annotations

import pytest

from lightning_sdft.cli import COMMANDS
from lightning_sdft.commands.fit import SDFTCLI
from lightning_sdft.commands.short_help import RUNS, short_help


def test_every_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = short_help(["--help"])
    assert text is not None
    told = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    assert sorted(told) == sorted([*SDFTCLI.subcommands(), *COMMANDS])
    assert sorted(RUNS) == sorted(SDFTCLI.subcommands())


@pytest.mark.parametrize("command", [*RUNS, *COMMANDS])
def test_the_help_of_a_command_fits_a_screen(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = short_help([command, "--help"])
    assert text is not None
    assert text.startswith(f"lightning-sdft {command} ")
    assert len(text.splitlines()) <= 48
    assert max(map(len, text.splitlines())) <= 100
    assert not any(mark in text for mark in ("``", ":class:", ":func:"))


def test_options_are_explained_with_their_defaults_and_choices() -> None:
    text = short_help(["init", "-h"])
    assert text is not None
    assert "--method sdft|sft|dft" in text
    assert "Where to train" in text
    assert "(auto)" in text
    export = short_help(["export", "--help"])
    assert export is not None
    assert "--output TEXT" in export
    assert "(needed)." in export


def test_behind_options_it_is_the_help_of_the_same_command() -> None:
    assert short_help(["fit", "--config", "laptop_sdft", "--help"]) == short_help(["fit", "--help"])


@pytest.mark.parametrize("typed", [["fit"], ["fit", "--help", "all"], ["--help", "all"], ["fitt", "--help"], []])
def test_all_else_is_left_to_the_parsers(typed: list[str]) -> None:
    assert short_help(typed) is None
