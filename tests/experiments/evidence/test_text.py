"""The evidence as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.experiments.evidence.endpoint import Endpoint
from lightning_sdft.experiments.report.written import write_report
from tests.experiments.small_experiment import write_experiment


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    write_experiment(folder)
    write_report(folder, folder)
    return (folder / "evidence.md").read_text()


def test_the_endpoint_comes_first_with_where_it_is_from(text: str) -> None:
    assert text.startswith("# Evidence: Made up\n")
    assert "joint against SFT, new_task, all domains: by default, since the config names none, before any run" in text
    assert text.index("## The endpoint") < text.index("## double")


def test_the_start_stands_beside_what_was_learned_and_kept(text: str) -> None:
    table = text[text.index("## double: what was learned") : text.index("## swap-ends: what was learned")]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert rows[0] == "| | base | SFT | SFT + again | SDFT | joint |"
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| new task", "| copy", "| sort", "| prior, all"]
    assert "(better)" in rows[1]
    assert "(worse)" in rows[2]
    assert "(not distinguishable)" in rows[2]


def test_endpoint_that_was_changed_is_said_to_be_an_afterthought(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    write_experiment(tmp_path, Endpoint("SDFT", "SFT", "prior"))
    write_report(tmp_path, tmp_path)
    assert (
        "named in the config, when results were there already: take it as one" in (tmp_path / "evidence.md").read_text()
    )


def test_one_seed_is_said_to_show_nothing(tmp_path: Path) -> None:
    write_experiment(tmp_path, Endpoint("SDFT", "SFT"), seeds=(1,))
    write_report(tmp_path, tmp_path)
    assert "**SDFT against SFT: not distinguishable with 1 seed**" in (tmp_path / "evidence.md").read_text()
