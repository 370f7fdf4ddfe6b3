import json
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from tests.stability.records import Record, read_records
from tests.stability.report import HEADER, by_skill, picture, table

PRIOR = {"copy": 1.0, "sort": 0.9, "increment": 0.8, "reverse": 0.5, "maximum": 0.5, "first-two": 0.5, "last-two": 0.5}


def a_record(curve: dict[int, float], warned: int | None = None, seed: int = 0, method: str = "EMA") -> Record:
    return Record(method, "double", seed, curve, curve[max(curve)], PRIOR, warned)


@pytest.mark.parametrize(
    ("curve", "step"),
    [
        ({32: 0.5, 64: 1.0, 96: 0.95, 128: 0.9, 160: 0.2}, 128),  # by exactly .10
        ({32: 0.5, 64: 0.35, 96: 1.0}, 64),  # below what was best until then
        ({32: 0.5, 64: 1.0, 96: 0.91}, None),
    ],
)
def test_fall_is_the_first_step_that_is_far_below_the_best_so_far(curve: dict[int, float], step: int | None) -> None:
    assert a_record(curve).fell == step


def test_prior_skills_that_retention_of_three_never_sees_are_apart() -> None:
    assert a_record({32: 1.0}).kept(held_out=False) == pytest.approx(0.9)
    assert a_record({32: 1.0}).kept(held_out=True) == pytest.approx(0.5)


def test_table_says_best_and_end_and_how_long_before_the_fall_the_watch_warned() -> None:
    runs = [
        a_record({32: 1.0, 64: 0.9, 96: 0.0}, warned=16),
        a_record({32: 1.0, 64: 1.0, 96: 1.0}, warned=48, seed=1),
        a_record({32: 0.8, 64: 1.0, 96: 0.6}, seed=2),
    ]
    lines = table(runs).splitlines()
    assert lines[0] == HEADER
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert len(cells) == HEADER.count("|") - 1
    assert cells[:2] == ["EMA", "3"]
    assert cells[2].startswith("100.0 ±")
    assert cells[4:7] == ["0.0", "2 (80)", "48; 1 that did not fall"]
    assert cells[8:] == ["90.0 ± 0.0", "50.0 ± 0.0"]


def test_each_skill_has_its_mean_its_lowest_run_and_what_is_kept() -> None:
    runs = [a_record({32: 1.0}), a_record({32: 0.5}, seed=1), a_record({32: 0.9}, method="gated")]
    assert by_skill(runs).splitlines() == [
        "| | double |",
        "|---|---|",
        "| EMA | 75 (50) / 67 |",
        "| gated | 90 (90) / 67 |",
    ]


def test_records_are_read_from_a_comparison_and_drawn(tmp_path: Path) -> None:
    row = {"method": "EMA", "domain": "double", "seed": 0, "learning_rate": 3e-4, "new_task_accuracy": 0.1}
    rows = [
        {**row, "prior": PRIOR, "error": None},
        {**row, "seed": 1, "prior": {}, "error": "failed"},
        {**row, "method": "base", "learning_rate": None, "prior": PRIOR, "error": None},
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with SummaryWriter(str(tmp_path / "runs/double/ema/rate-0.0003-seed-0/tensorboard")) as writer:
        for step, accuracy in ((31, 0.9), (63, 0.2)):
            writer.add_scalar("val/accuracy", accuracy, step)
        for step in (48, 16):
            writer.add_text("teacher/watch", "student/in_context fell", step)
    (run, base) = read_records(tmp_path)
    assert run.best == pytest.approx(0.9)
    assert (run.fell, run.end, run.warned) == (63, 0.1, 16)
    assert (base.method, base.curve, base.warned) == ("base", {}, None)
    picture([run, base], tmp_path)
    with Image.open(tmp_path / "stability.png") as drawn:
        assert len(set(drawn.convert("RGB").resize((400, 300)).tobytes())) > 10
