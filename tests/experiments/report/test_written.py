"""Everything that is made from results, for both kinds of experiment."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_sdft.experiments.chains import Chain, Stage
from lightning_sdft.experiments.evidence.endpoint import named_endpoint
from lightning_sdft.experiments.evidence.sequences import SEQUENCE
from lightning_sdft.experiments.plan import Method, Plan
from lightning_sdft.experiments.report.experiment import Experiment
from lightning_sdft.experiments.report.written import write_report
from lightning_sdft.experiments.runs.details import Details
from tests.experiments.small_experiment import write_experiment
from tests.experiments.stages import SKILLS, stage

MATRICES = {"SFT": [[0.2, 0.4], [0.8, 0.5], [0.3, 0.9]], "SDFT": [[0.2, 0.4], [0.7, 0.4], [0.7, 0.9]]}


def verdicts(stages: Stage) -> Details:
    """Verdicts on ten questions of each skill that go with the accuracies."""
    found = {
        f"test/accuracy/{skill}": {str(place): place < round(10 * value) for place in range(10)}
        for skill, value in stages.accuracies.items()
    }
    return Details(found | {"test/prior/copy": {"a": True}})


def test_sequences_are_tested_at_their_end(tmp_path: Path) -> None:
    plan = Plan([SEQUENCE], {name: Method([{}]) for name in MATRICES}, [0, 1, 2], [1e-4], [])
    rows = []
    for seed in plan.seeds:
        rows.append(stage("base", None, seed, 0, [0.2, 0.4]))
        rows += [stage(name, 1e-4, seed, number, MATRICES[name][number]) for name in MATRICES for number in (1, 2)]
    for row in rows:
        row.folder(tmp_path / "runs").mkdir(parents=True)
        verdicts(row).write(row.folder(tmp_path / "runs"))
    endpoint = named_endpoint(None, [], plan, tmp_path)
    planned = Plan(SKILLS, plan.methods, plan.seeds, [1e-4], [])
    experiment = Experiment.of("continual", planned, endpoint, [], "", [])
    experiment.write(tmp_path, [row.record() for row in rows])
    assert set(write_report(tmp_path, tmp_path)) >= {"matrix.md", "evidence.md", "evidence.json"}
    content = json.loads((tmp_path / "evidence.json").read_text())
    test = content["endpoint"]["test"]
    assert (test["domain"], test["method"], test["against"]) == (SEQUENCE, "SDFT", "SFT")
    assert (test["accuracy"], test["other"]) == (0.8, 0.6)
    assert [(each["pairs"]["gained"], each["pairs"]["lost"]) for each in test["seeds"]] == [(4, 0)] * 3
    measures = {each["measure"] for each in content["tests"] if each["against"] == "base"}
    assert measures == {"new_task", *SKILLS, "copy", "prior"}
    text = (tmp_path / "evidence.md").read_text()
    assert "| SFT | a | 20.0 ± 0.0 | 20.0 ± 0.0 | 80.0 ± 0.0 | 30.0 ± 0.0 |" in text
    assert "| SDFT | b | 40.0 ± 0.0 | 40.0 ± 0.0 | 90.0 ± 0.0 | 90.0 ± 0.0 |" in text


def test_stage_comes_back_from_its_record() -> None:
    for each in (stage("SFT", 1e-4, 0, 2, [0.3, 0.9]), stage("base", None, 1, 0, [0.2, 0.4])):
        assert Stage.read(json.loads(json.dumps(each.record()))) == each
    failed = Stage(Chain("SFT", 1e-4, 0), 1, "a", error="killed")
    assert Stage.read(json.loads(json.dumps(failed.record()))) == failed


def test_results_are_written_elsewhere_without_their_runs(tmp_path: Path) -> None:
    write_experiment(tmp_path / "from")
    (tmp_path / "to").mkdir()
    write_report(tmp_path / "from", tmp_path / "to")
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names == {"table5.md", "evidence.md", "evidence.json", "pareto.png", "pareto.svg"}
