from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.commands.configs import configs, first_sentence
from lightning_sdft.errors import SettingError
from tests.config_runs import CONFIGS


def test_every_config_is_listed_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    found = configs()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(found) == len([each for each in CONFIGS.rglob("*.yaml") if "parts" not in each.parts])
    assert found["method/sft"] == "Supervised fine-tuning"
    assert found["continual/laptop"].startswith("Fig. 3 of the paper on the laptop model")
    assert any(line.split("  ")[0] == "experiment/laptop_sdft" for line in printed)
    assert len(configs(parts=True)) == len(list(CONFIGS.rglob("*.yaml")))
    assert all(line.strip() for line in configs(parts=True).values())


def test_only_those_about_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(configs("WEARING out")) == {"compare/laptop_stability"}
    with pytest.raises(SettingError, match=r"no config has 'laptp' in its name .*did you mean laptop\?"):
        configs("laptp")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# One thing. Another\nseed: 1\n", "One thing."),
        ("# Fig. 3 of a\n# paper: more\n", "Fig. 3 of a paper"),
        ("# no end\nseed: 1", "no end"),
        ("seed: 1", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert first_sentence(file) == sentence
