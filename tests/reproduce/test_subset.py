"""One skill and one seed of what ``make reproduce`` does, and the same with teachers that are broken.

Each method has the learning rate that is best for it there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.experiments.laptop_runs import command, results, write
from tests.reproduce.__main__ import ROOT
from tests.reproduce.claims import Record, table_5

SKILL = "reverse-increment"
RATES = {"SFT": 8e-4, "DFT": 8e-4, "SDFT": 5e-4, "SFT + re-invoke": 1e-4}
EPOCHS = 6
"""Half of those of ``make reproduce``, at higher rates: enough for each claim to hold."""
LENGTH = {"trainer": {"max_epochs": EPOCHS, "check_val_every_n_epoch": EPOCHS // 2}}

pytestmark = pytest.mark.method


def method(part: str, *changes: dict[str, Any]) -> dict[str, Any]:
    """SDFT with changes."""
    return {"parts": [f"configs/compare/parts/laptop_{part}.yaml", *changes]}


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks+": [{"class_path": f"tests.reproduce.teachers.{name}", "init_args": arguments}]}}


BLIND = {
    "class_path": "DistillationModule",
    "init_args": {"privileged_context": "none", "teacher_template": "{prompt}"},
}
SHORT = {"trainer": {"max_epochs": 3, "check_val_every_n_epoch": 3}}  # by when SDFT as it is has learned the new task
BROKEN = {
    "no demonstration": method("sdft", SHORT, {"model": BLIND}),
    "another example's demonstration": method("sdft", SHORT, callback("OtherDemonstration")),
    # The student learns before the teacher has run away: the best checkpoint is from then.
    "update backwards": {
        **method("frozen", SHORT, callback("BackwardsEMATeacher", teacher_rate=0.1)),
        "checkpoint": "last",
    },
}


def compared(folder: Path, **changes: Any) -> list[Record]:
    """The rows of the laptop's comparison with changes."""
    config = {"config": [str(ROOT / "configs" / "compare" / "laptop.yaml")]}
    file = write(folder / "compare.yaml", {**config, "domains": [SKILL], **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        command(patch, "compare", "--config", file, "--out", folder / "out", "--trust", "tests")
    return results(folder / "out")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    methods = yaml.safe_load((ROOT / "configs" / "compare" / "laptop.yaml").read_text())["methods"]
    for name, each in methods.items():
        each["learning_rates"] = [RATES[name]]
        each["parts"] += [] if name == "SFT + re-invoke" else [LENGTH]
    return compared(tmp_path_factory.mktemp("subset"), methods=methods, seeds=[1])


def test_what_the_paper_says_holds(rows: list[Record]) -> None:
    claims = table_5(rows)
    assert len(claims) == 7
    assert [str(claim) for claim in claims if not claim.holds] == []


def test_broken_teachers_are_found_out(rows: list[Record], tmp_path: Path) -> None:
    others = compared(tmp_path, methods=BROKEN, endpoint=None, learning_rates=[RATES["SDFT"]], seeds=[0])
    assert [row["error"] for row in others] == [None] * 4
    for name in BROKEN:
        broken = [{**row, "method": "SDFT"} for row in others if row["method"] == name]
        claims = table_5([*(row for row in rows if row["method"] != "SDFT"), *broken])
        assert [claim for claim in claims if "SDFT" in claim.sentence and not claim.holds], name
