"""One run in this process: what it evaluates beside its own sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_sdft.errors import PriorTaskError
from lightning_sdft.experiments.runs.details import Details
from lightning_sdft.experiments.runs.run import Outcome, PriorBenchmarks, Run, read_parts
from lightning_sdft.experiments.runs.worker import perform
from tests.evaluation.task_files import folder as tasks
from tests.experiments.laptop_runs import part
from tests.launch import in_processes

__all__ = ["tasks"]


def test_prior_benchmarks_and_further_data_are_asked_too(tasks: Path, tmp_path: Path) -> None:
    parts, also = (read_parts([part()], domain=skill) for skill in ("double", "swap-ends"))
    prior = PriorBenchmarks(["skills", "written"], limit=4, include_path=str(tasks))
    Run(parts, train=False, evaluate_also=[also], prior=prior).write(tmp_path)
    perform(tmp_path)
    found = Outcome.read(tmp_path)
    assert found is not None
    metrics = found.metrics
    assert metrics["test/accuracy"] == (metrics["test/accuracy/double"] + metrics["test/accuracy/swap-ends"]) / 2
    # Every fourth question has a wrong answer as the right one; see there.
    assert metrics["test/prior/skills"] == 0.75
    prior = {name: value for name, value in metrics.items() if name.startswith("test/prior/")}
    average = prior.pop("test/prior/average")
    assert len(prior) == 2 + 7  # those of the data as well
    assert average == pytest.approx(sum(prior.values()) / 9)
    verdicts = Details.read(tmp_path).verdicts
    assert verdicts.keys() == prior.keys() | {"test/accuracy/double", "test/accuracy/swap-ends"}
    assert sum(map(bool, verdicts["test/prior/skills"].values())) == 3
    assert (found.steps, found.checkpoint) == (0, None)
    assert found.validation_accuracy is not None
    before = (tmp_path / "outcome.json").stat().st_mtime_ns
    perform(tmp_path)
    assert (tmp_path / "outcome.json").stat().st_mtime_ns == before


def perform_together(folder: str) -> None:
    perform(Path(folder))


def test_the_processes_of_one_run_do_not_wait_for_each_other(tmp_path: Path) -> None:
    together = {"devices": 2, "strategy": "ddp", "max_steps": 1, "val_check_interval": None, "callbacks": []}
    Run(read_parts([part(**together)], domain="double")).write(tmp_path)
    in_processes(2, perform_together, str(tmp_path))
    found = Outcome.read(tmp_path)
    assert found is not None
    assert found.steps == 1


def test_benchmark_that_is_refused_is_named(tasks: Path, tmp_path: Path) -> None:
    prior = PriorBenchmarks(["runs_code"], include_path=str(tasks))
    Run(read_parts([part()], domain="double"), train=False, prior=prior).write(tmp_path)
    with pytest.raises(PriorTaskError, match="task 'runs_code' runs what the model writes"):
        perform(tmp_path)
    assert Outcome.read(tmp_path) is None
