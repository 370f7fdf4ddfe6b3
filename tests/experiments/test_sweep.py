"""Sweeps by the command line, for real: each combination once, whatever stops or shares them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sdft.commands.fit import main
from lightning_sdft.experiments import pruning, search, sweep
from tests.experiments.laptop_runs import callback, command, outcomes, part, process, wait_for, write

optuna = pytest.importorskip("optuna")

RATE = "model.init_args.learning_rate"
STEPS: list[dict[str, Any]] = [{"trainer.max_steps": 1}, {"trainer.max_steps": 2, "data.init_args.batch_size": 4}]
ONE = part(data={"skill": "double"}, max_steps=1, val_check_interval=1)


def config(folder: Path, *parts: Any, **changes: Any) -> Path:
    given = {"parts": [ONE, *parts], "grid": {RATE: [1.0e-4, 3.0e-4]}, "seeds": [0], "jobs": 2}
    return write(folder / "sweep.yaml", {**given, **changes})


def trials(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "trials.json").read_text())
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of four combinations, two at once, with a class of one's own."""
    folder = tmp_path_factory.mktemp("sweep")
    file = config(folder, callback("Beginning"), grid={RATE: [1.0e-4, 3.0e-4], "batch": STEPS})
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "sweep", "--config", file, "--out", folder / "out", "--trust", "tests")
    return folder / "out"


def test_grid_is_tried_whole_and_each_combination_once(out: Path) -> None:
    found = trials(out)
    assert {each["state"] for each in found} == {"complete"}
    expected = [{RATE: rate, **steps} for rate, steps in product([1e-4, 3e-4], STEPS)]
    assert sorted((each["settings"] for each in found), key=str) == sorted(expected, key=str)
    names = [f"learning-rate-{rate}_batch-{steps}" for rate in ("0.0001", "0.0003") for steps in ("1", "2-4")]
    assert sorted(path.name for path in out.glob("runs/*")) == names
    for name in names:  # which also says that threads trust what the command line trusts
        start = torch.load(out / "runs" / name / "seed-0/tensorboard/beginning.pt", weights_only=True)
        assert start["step"] == 0
        record = json.loads((out / "runs" / name / "seed-0/outcome.json").read_text())
        assert record["steps"] == (2 if name.endswith("2-4") else 1)


def test_best_is_a_config_of_fit(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    best = max(trials(out), key=lambda each: each["validation_accuracy"])
    assert (out / "best.yaml").read_text().startswith("# The best of 4 trials: accuracy ")
    cli = main(["fit", "--config", str(out / "best.yaml"), "--trainer.max_steps=1", "--trust", "tests"])
    assert cli.trainer.global_step == 1
    assert cli.model.learning_rate == best["settings"][RATE]
    assert cli.datamodule.batch_size == best["settings"].get("data.init_args.batch_size", 8)
    assert not any(isinstance(each, pruning.OptunaPruning) for each in cli.trainer.callbacks)


def test_same_command_repeats_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, records, best = outcomes(out), trials(out), (out / "best.yaml").read_text()
    command(monkeypatch, "sweep", "--config", out.parent / "sweep.yaml", "--out", out, "--trust", "tests")
    assert (outcomes(out), trials(out), (out / "best.yaml").read_text()) == (before, records, best)
    assert "[" not in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"grid": {RATE: [1e-4]}}, "grid"),
        ({"grid": {RATE: [1e-4, 3e-4], "batch": [STEPS[0], {"trainer.max_steps": 2, "data.batch_size": 4}]}}, "grid"),
        ({"parts": [part(data={"skill": "swap-ends"})]}, "parts"),
        ({"seeds": [1]}, "seeds"),
        ({"seeded": ["seed_everything"]}, "seeded"),
        ({"pruning": True}, "pruning"),
    ],
)
def test_other_sweep_in_the_same_folder_is_refused(
    changes: dict[str, Any], complaint: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"grid": {RATE: [1.0e-4, 3.0e-4], "batch": STEPS}, **changes}
    file = config(tmp_path, callback("Beginning"), **given)
    best = (out / "best.yaml").read_text()
    with pytest.raises(SystemExit, match=rf"error: .* has a sweep with other {complaint}, .*give another --out"):
        command(monkeypatch, "sweep", "--config", file, "--out", out, "--trust", "tests")
    assert (out / "best.yaml").read_text() == best


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_other_samplers_try_as_many_as_asked_for_and_go_on_with_more(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(tmp_path, grid={RATE: [1.0e-4, 2.0e-4, 3.0e-4]}, sampler=sampler, jobs=1)
    arguments = ["sweep", "--config", file, "--out", tmp_path / "out"]
    command(monkeypatch, *arguments, "--trials=1")
    assert len(trials(tmp_path / "out")) == 1
    before = outcomes(tmp_path / "out")
    command(monkeypatch, *arguments, "--trials=2")
    assert len({str(each["settings"]) for each in trials(tmp_path / "out")}) == 2
    assert outcomes(tmp_path / "out").items() > before.items()


def test_dead_process_leaves_its_trial_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes at once on one study; the first is killed in the middle of a trial that it has chosen."""
    pause = tmp_path / "pause"
    steps = part(data={"skill": "double"}, max_steps=3, val_check_interval=1)
    file = config(tmp_path, steps, callback("Pause", file=str(pause)), jobs=1)
    arguments = ["sweep", "--config", file, "--out", tmp_path / "out", "--trust", "tests"]
    pause.touch()
    with process(*arguments) as started:
        wait_for(lambda: pause.read_text() or started.poll() is not None)
        pause.unlink()
        taken = Path(next(iter((tmp_path / "out/runs").iterdir())))
        monkeypatch.setattr(pruning, "SECONDS_BETWEEN_HEARTBEATS", 1)
        monkeypatch.setattr(pruning, "SECONDS_OF_GRACE", 2)
        monkeypatch.setattr("lightning_sdft.experiments.trials.SECONDS_BETWEEN_LOOKS", 0.1)
        assert not (taken / "seed-0/outcome.json").exists()
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    command(monkeypatch, *arguments)
    records = trials(tmp_path / "out")
    complete = [str(each["settings"]) for each in records if each["state"] == "complete"]
    assert len(complete) == len(set(complete)) == 2
    assert [each["state"] for each in records].count("fail") == 1
    assert (taken / "seed-0/outcome.json").exists()


def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(tmp_path, grid={RATE: [1.0e-4, 2.0e-4, 3.0e-4]}, jobs=1)
    arguments = ["sweep", "--config", file, "--out", tmp_path / "out"]
    with process(*arguments) as other:
        wait_for(lambda: list(tmp_path.glob("out/runs/*")) or other.poll() is not None)
        command(monkeypatch, *arguments)
        assert other.wait(400) == 0
    found = [str(each["settings"]) for each in trials(tmp_path / "out")]
    assert len(found) == len(set(found)) == 3
    assert len(outcomes(tmp_path / "out")) == 3


def test_run_that_is_worse_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind five trials, of which records are enough: the sixth would spoil the model."""
    rates = [1.0e-4, 2.0e-4, 3.0e-4, 4.0e-4, 5.0e-4]
    spoiling = part(data={"skill": "double"}, max_steps=8, val_check_interval=2)
    file = config(tmp_path, spoiling, grid={RATE: [*rates, 1.0]}, pruning=True, jobs=1)
    arguments = ["sweep", "--config", file, "--out", tmp_path / "out"]
    perform_all = search.perform_all
    monkeypatch.setattr(search, "perform_all", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit, match="130"):
        command(monkeypatch, *arguments)
    monkeypatch.setattr(search, "perform_all", perform_all)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'out/study.db'}")
    space = optuna.distributions.CategoricalDistribution([str(rate) for rate in (*rates, 1.0)])
    for rate in rates:
        done = optuna.create_trial(
            value=0.9,
            params={RATE: str(rate)},
            distributions={RATE: space},
            user_attrs={"settings": {RATE: rate}},
            intermediate_values={step: 0.9 for step in (2, 4, 6, 8)},
        )
        study.add_trial(done)
    capsys.readouterr()
    command(monkeypatch, *arguments)
    (stopped,) = [each for each in trials(tmp_path / "out") if each["settings"] == {RATE: 1.0}]
    assert stopped["state"] == "pruned"
    (outcome,) = outcomes(tmp_path / "out")
    assert json.loads(outcome.read_text())["steps"] == 2
    assert (outcome.parent / "pruned").exists()
    assert "learning_rate 1.0: 0.000, stopped early" in capsys.readouterr().out


def test_seeds_of_a_trial_report_each_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(tmp_path, grid={RATE: [1.0e-4]}, seeds=[0, 1], pruning=True, jobs=1)
    command(monkeypatch, "sweep", "--config", file, "--out", tmp_path / "out")
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'out/study.db'}")
    accuracies = [json.loads(path.read_text())["validation_accuracy"] for path in sorted(outcomes(tmp_path / "out"))]
    assert [trial.intermediate_values for trial in study.trials if trial.state.is_finished()] == [
        {1: accuracies[0], pruning.STEPS_APART + 1: accuracies[1]}
    ]


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """With what error a sweep ends."""

    def run(**changes: Any) -> str:
        file = config(tmp_path, **changes)
        with pytest.raises(SystemExit) as ended:
            command(monkeypatch, "sweep", "--config", file, "--out", tmp_path / "out")
        return str(ended.value)

    return run


def test_mistakes_are_said_before_anything_runs(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(trials=2).startswith("error: sampler=grid tries all combinations; leave trials out")
    assert refused(sampler="tpe", trials=0) == "error: sweep: trials=0 must be a whole number >= 1"
    assert refused(sampler="tpe") == "error: sampler=tpe needs the number of trials"
    assert refused(grid={}) == "error: grid is empty; there is nothing to choose from"
    assert refused(grid={RATE: []}) == f"error: grid.{RATE} has no values"
    assert refused(grid={RATE: [1, 1]}) == f"error: grid.{RATE} has a value twice: 1; 1"
    assert refused(grid={RATE: [-1, 1]}) == f"error: grid.{RATE} has values that would share a folder: -1; 1"
    assert refused(seeds=[]) == "error: seeds is empty; there is nothing to try"
    assert refused(jobs=0) == "error: sweep: jobs=0 must be a whole number >= 1"
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    assert refused() == "error: sweeps need Optuna: pip install 'lightning-sdft[sweep]'"
    assert not (tmp_path / "out").exists()


def test_sweep_without_a_good_trial_says_why_each_was_bad(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"model.init_args.max_prompt_tokens": 2}, {"model.init_args.no_such": 3}]
    said = refused(grid={"budget": bad}, jobs=1)
    assert said.startswith("error: no trial has ended well; ")
    assert "max_prompt_tokens=2" in said
    printed = capsys.readouterr().out
    assert printed.count("FAILED: ") == 2
    assert "SFTModule has no setting no_such" in printed
