"""What a run keeps beside its outcome, of a real run in one process and in two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.run import Outcome, Run, read_parts
from lightning_sdft.experiments.runs.worker import perform
from tests.experiments.laptop_runs import part
from tests.launch import in_processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    Run(read_parts([part()], domain="double")).write(folder)
    perform(folder)
    return folder


def check_counts(folder: Path) -> None:
    """Each accuracy is the share of the verdicts that are right."""
    outcome, details = Outcome.read(folder), Details.read(folder)
    assert outcome is not None
    assert len(details.verdicts) == 8
    for name, verdicts in details.verdicts.items():
        assert outcome.metrics[name] == pytest.approx(sum(map(bool, verdicts.values())) / len(verdicts))
    assert len(details.verdicts["test/accuracy/double"]) == 16


def test_verdicts_are_those_that_the_accuracies_count(alone: Path) -> None:
    check_counts(alone)


def test_curves_have_what_was_validated(alone: Path) -> None:
    curves = Details.read(alone).curves
    assert len(curves["val/accuracy"]) == 2
    assert curves["val/accuracy"].keys() == curves["prior/average"].keys() == curves["prior/copy"].keys()
    assert not any("_low" in name or "_high" in name for name in curves)


def test_provenance_names_versions_and_machine(alone: Path) -> None:
    found = Details.read(alone).provenance
    assert {"lightning-sdft", "torch", "transformers", "lightning"} <= found["versions"].keys()
    assert found["cores"] >= 1
    assert {"commit", "python", "system", "processor", "accelerators"} < found.keys()
    assert str(Path.home()) not in json.dumps(found)


def test_scores_are_no_verdicts(tmp_path: Path) -> None:
    grader = {"class_path": "Similarity"}
    rows = [{"prompt": f"reverse : a {sign}", "response": f"{sign} a", "key": f"{sign} a"} for sign in "bcd"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.jsonl"))
    data = {**files, "reference_column": "key", "grader": grader, "name": "own", "batch_size": 1}
    parts = [part(), {"data": {"class_path": "JsonDataModule", "init_args": data}}]
    Run(read_parts(parts, domain="double"), train=False).write(tmp_path / "run")
    perform(tmp_path / "run")
    outcome, details = Outcome.read(tmp_path / "run"), Details.read(tmp_path / "run")
    assert outcome is not None
    assert 0 <= outcome.metrics["test/accuracy/own"] <= 1
    assert details.verdicts["test/accuracy/own"] == dict.fromkeys(("rows-1", "rows-2", "rows-3"))


def test_run_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    assert Details.read(tmp_path) == Details()


def perform_together(folder: str) -> None:
    perform(Path(folder))


def test_verdicts_of_all_processes_are_kept(tmp_path: Path) -> None:
    together = {"devices": 2, "strategy": "ddp", "max_steps": 1, "val_check_interval": None, "callbacks": []}
    Run(read_parts([part(**together)], domain="double")).write(tmp_path)
    in_processes(2, perform_together, str(tmp_path))
    check_counts(tmp_path)
