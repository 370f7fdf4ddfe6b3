"""What was kept in each stage of a sequence, beside what a script of its own works out from the same files."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from lightning_sdft.experiments.evidence.sequences import EARLIER, stages_on_their_way
from lightning_sdft.experiments.report.written import write_report
from lightning_sdft.experiments.runs.details import Details
from tests.experiments.evidence.recomputed import Curves, kept_in_stage
from tests.experiments.small_sequences import SEEDS, SKILLS, write_sequences
from tests.experiments.stages import sequence


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequences")
    write_sequences(folder)
    write_report(folder, folder)
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> dict[tuple[int, str, str], dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "evidence.json").read_text())["matched"]
    assert {each["method"] for each in rows} == {"SDFT"}
    numbers = {f"stage {number}, {skill}": number for number, skill in enumerate(SKILLS, start=1)}
    return {(numbers[each["domain"]], each["against"], each["measure"]): each for each in rows}


def curves(out: Path, method: str, seed: int, number: int) -> Curves:
    """The curves of a stage as they lie on the disk."""
    name = f"base/seed-{seed}/base"
    if number:
        name = f"{method.lower()}/rate-0.0001-seed-{seed}/stage-{number}-{SKILLS[number - 1]}"
    content: Curves = json.loads((out / "runs" / name / "details.json").read_text())["curves"]
    return content


def measures(number: int) -> list[str]:
    return ["copy", "prior", *SKILLS[: number - 1], *([EARLIER] if number > 2 else [])]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("against", ["SFT", "replay"])
def test_stages_are_compared_where_both_have_learned_equally_much(
    out: Path, found: dict[tuple[int, str, str], dict[str, Any]], number: int, against: str
) -> None:
    asked = {measure for stage, other, measure in found if (stage, other) == (number, against)}
    assert asked == set(measures(number))
    for measure in asked:
        rows = [
            kept_in_stage(
                [[curves(out, name, seed, each) for each in (number - 1, number)] for name in ("SDFT", against)],
                SKILLS[:number],
                measure,
            )
            for seed in SEEDS
        ]
        met = [each for each in rows if each is not None]
        row = found[number, against, measure]
        assert [row["level"], row["kept"], row["other"]] == pytest.approx(
            [mean(each) for each in zip(*met, strict=True)]
        )
        assert row["differences"] == pytest.approx([mine - theirs for _, mine, theirs in met])


def test_way_of_a_stage_begins_where_the_one_before_has_ended(tmp_path: Path) -> None:
    stages = sequence("SFT", 1e-4, 0, [[0.5, 0.5]] * 3)
    validated = [
        {"a": {0: 0.1}, "b": {0: 0.2}, "copy": {0: 1.0}},
        {"a": {2: 0.5, 4: 0.9}, "b": {2: 0.2, 4: 0.3}, "copy": {2: 0.9, 4: 0.8}},
        {"a": {2: 0.6, 4: 0.4}, "b": {2: 0.7, 4: 1.0}, "copy": {4: 0.5}},
    ]
    for stage, each in zip(stages, validated, strict=True):
        stage.folder(tmp_path).mkdir(parents=True)
        named = {name if name == "copy" else f"val/accuracy/{name}": curve for name, curve in each.items()}
        named["prior/copy"] = named.pop("copy")
        Details({}, named).write(stage.folder(tmp_path))
    first, second = stages_on_their_way(stages, tmp_path)
    assert (first.domain, second.domain) == ("stage 1, a", "stage 2, b")
    assert [(each.new, each.kept) for each in first.way] == [
        (0.1, {"copy": 1.0}),
        (0.5, {"copy": 0.9}),
        (0.9, {"copy": 0.8}),
    ]
    assert [(each.new, each.kept) for each in second.way] == [
        (0.3, {"a": 0.9, "copy": 0.8}),
        (0.7, {"a": 0.6}),
        (1.0, {"a": 0.4, "copy": 0.5}),
    ]


def test_text_says_that_each_stage_stands_for_itself(out: Path) -> None:
    text = (out / "evidence.md").read_text()
    assert "Each stage stands for itself: its skill is the new task" in text
    assert "| stage 3, c | SDFT, replay |" in text
