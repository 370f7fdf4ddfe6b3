from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_snippet_runs_and_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) <= 10
    exec(snippet.replace("max_epochs=12", "max_epochs=1"), {})
    assert "prior/average" in capsys.readouterr().out


def test_targets_and_configs_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"configs/[a-z_/0-9]+\.yaml", README):
        assert (ROOT / path).is_file(), path


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "make test" in README
    check = re.search(r"^check: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert check is not None
    assert "\t$(MAKE) test\n" in check[1]
    assert "make check" in (ROOT / ".ci" / "run").read_text()
