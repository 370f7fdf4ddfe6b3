from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_sdft.commands.completion import SCRIPTS, candidates


def test_commands_come_first() -> None:
    assert {"fit", "export", "init", "configs"} <= set(candidates("lightning-sdft "))
    assert candidates("lightning-sdft exp") == ["export"]


def test_configs_are_completed_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/run.yaml").touch()
    Path("mine/notes.txt").touch()
    assert "laptop_sdft" in candidates("lightning-sdft fit --config lap")
    assert "method/sdft" in candidates("lightning-sdft fit -c method/")
    assert candidates("lightning-sdft fit --config mi") == ["mine/"]
    assert candidates("lightning-sdft fit --config mine/") == ["mine/run.yaml"]
    assert candidates("lightning-sdft fit --config nowhere/") == []


def test_classes_and_their_settings() -> None:
    assert candidates("lightning-sdft fit --model SDF") == ["SDFTModule"]
    assert candidates("lightning-sdft fit --data Jso") == ["JsonDataModule"]
    assert candidates("lightning-sdft fit --model.learn") == ["--model.learning_rate"]
    assert candidates("lightning-sdft fit --trainer.max_st") == ["--trainer.max_steps"]
    typed = "lightning-sdft fit --data StringSkillsDataModule --data.own_st"
    assert candidates(typed) == ["--data.own_style_share"]
    assert candidates("lightning-sdft fit --data.own_st") == []  # the default has no such setting


def test_options_of_a_command_and_nothing_where_nothing_is_known() -> None:
    assert candidates("lightning-sdft export --out") == ["--output"]
    assert candidates("lightning-sdft export --output ") == []
    assert candidates("lightning-sdft unheard --o") == []
    assert candidates("lightning-sdft fit --config 'op") == []


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
def test_bash_asks_and_is_answered(tmp_path: Path) -> None:
    command = tmp_path / "lightning-sdft"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lightning_sdft "$@"\n')
    command.chmod(0o755)
    # compgen runs -C as completion does
    asked = (
        f"export PATH={tmp_path}:$PATH; {SCRIPTS['bash']}; COMP_LINE='lightning-sdft prefl' lightning-sdft --complete"
    )
    done = subprocess.run(["/bin/bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["preflight"]
