"""What is said and refused before torch is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.commands.early import check_configs, first_line
from lightning_sdft.errors import SettingError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)


def test_the_first_line_names_the_command_and_its_configs() -> None:
    line = first_line(["fit", "--config", "laptop_sdft", "-c=own.yaml", "--trainer.max_steps", "3", "--config"])
    assert line == "fit laptop_sdft own.yaml: loading torch, Lightning and transformers"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        ["fit", "--print_config"],
        ["fit", "--print_config=skip_null"],
        ["fit", "--help", "all"],
        ["fit", "--model.help", "SDFTModule"],
        ["fit", "--model.help=SDFTModule"],
    ],
)
def test_who_asks_for_a_text_gets_nothing_else(arguments: list[str]) -> None:
    assert first_line(arguments) is None


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_the_first_of_several_processes_says_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "0")
    assert first_line(["fit"])
    monkeypatch.setenv(variable, "1")
    assert first_line(["fit"]) is None


def test_configs_are_looked_into_with_all_that_they_include(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("config: [part.yaml]\ntrainer: {max_steps: 1}\n")
    (tmp_path / "part.yaml").write_text("trainer: {max_steps: 1\n")
    check_configs(["fit", "--config", "laptop_sdft", "--trainer.max_steps", "1"])
    with pytest.raises(SettingError, match=r"part\.yaml, line 2, column 1: .* this is no YAML"):
        check_configs(["fit", "--config", "laptop_sdft", "-c", str(tmp_path / "good.yaml")])
    with pytest.raises(SettingError, match=r"godo\.yaml does not exist.* did you mean .*good\.yaml\?"):
        check_configs(["fit", f"--config={tmp_path / 'godo.yaml'}"])
